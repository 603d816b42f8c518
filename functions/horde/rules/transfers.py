"""Who may give kudos to whom, and how many. The codes are the Horde's (horde-api.md 1.5).

What is refused here is also a condition of the transaction (``store.transfers.transfer``).
"""

from horde.records import User
from horde.rules.refusals import KudosTransferRefused

AWARDER_ID = 1
"""The horde's first account, the only one that awards kudos."""


def _refuse(rc: str, message: str) -> KudosTransferRefused:
    return KudosTransferRefused(message, rc=rc)


def check_amount(amount: int) -> None:
    """Refuse an amount that cannot be moved."""
    if amount < 0:
        raise _refuse("NegativeKudosTransfer", "Nobody can be sent a negative amount of kudos.")
    if amount == 0:
        raise _refuse("InvalidKudosTransferAmount", "An amount of 0 moves nothing.")


def check_sender(sender: User) -> None:
    """Refuse those who cannot give kudos away."""
    if sender.anonymous:
        message = "You cannot transfer kudos from the anonymous account."
        raise _refuse("KudosTransferFromAnon", message)
    if sender.flagged:
        message = "The source account has been flagged for suspicious activity; it cannot transfer."
        raise _refuse("SourceAccountFlagged", message)


def check_receiver(receiver: User) -> None:
    """Refuse those who cannot be given kudos."""
    if receiver.anonymous:
        message = "You cannot transfer kudos to the anonymous account: nobody owns it."
        raise _refuse("KudosTransferToAnon", message)
    if receiver.deleted:
        raise _refuse("DeletedUser", "The target account has been deleted.")
    if receiver.flagged:
        message = "The target account has been flagged for suspicious activity; it cannot receive."
        raise _refuse("TargetAccountFlagged", message)


def check(sender: User, receiver: User, amount: int, *, received_recently: bool) -> None:
    """Refuse a transfer that is not allowed; raises KudosTransferRefused.

    ``received_recently``: the receiver sent the sender kudos within the last minute.
    """
    check_sender(sender)
    check_amount(amount)
    if not receiver.anonymous and receiver.id == sender.id:
        raise _refuse("KudosTransferToSelf", "You cannot transfer kudos to yourself.")
    check_receiver(receiver)
    if received_recently:
        message = (
            "This user sent you kudos within the last minute. Please wait a minute before you "
            "send some back."
        )
        raise _refuse("TooFastKudosTransfers", message)
    spendable = max(0, sender.kudos - sender.floor)
    if amount > spendable:
        message = f"Not enough kudos: {spendable} of {sender.kudos} can be transferred."
        raise _refuse("KudosTransferNotEnough", message)


def check_award(giver: User, receiver: User, amount: int) -> None:
    """Refuse an award that is not allowed; ``giver`` is known to be an awarder."""
    check_amount(amount)
    if receiver.anonymous:
        raise _refuse("KudosAwardToAnon", "You cannot award kudos to the anonymous account.")
    if receiver.id == giver.id:
        raise _refuse("KudosTransferToSelf", "You cannot award kudos to yourself.")
    check_receiver(receiver)
