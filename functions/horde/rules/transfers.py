"""Who may give how many kudos to whom. The codes are the Horde's (horde-api.md 1.5).

Each rule is also a condition of the transaction (``store.transfers.transfer``).
"""

from horde.records import User
from horde.rules.refusals import KudosTransferRefused


def _refuse(rc: str, message: str) -> KudosTransferRefused:
    return KudosTransferRefused(message, rc=rc)


def check_amount(amount: int) -> None:
    """Refuse an amount that is not positive; raises KudosTransferRefused."""
    if amount < 0:
        raise _refuse("NegativeKudosTransfer", "The amount of kudos cannot be negative.")
    if amount == 0:
        raise _refuse("InvalidKudosTransferAmount", "The amount of kudos cannot be 0.")


def check_sender(sender: User) -> None:
    """Refuse a sender who cannot give kudos away; raises KudosTransferRefused."""
    if sender.anonymous:
        message = "You cannot transfer kudos from the anonymous account."
        raise _refuse("KudosTransferFromAnon", message)
    if sender.flagged:
        message = "The source account has been flagged for suspicious activity; it cannot transfer."
        raise _refuse("SourceAccountFlagged", message)


def check_receiver(receiver: User) -> None:
    """Refuse a receiver who cannot get kudos; raises KudosTransferRefused."""
    if receiver.anonymous:
        message = "You cannot transfer kudos to the anonymous account, since nobody owns it."
        raise _refuse("KudosTransferToAnon", message)
    if receiver.deleted:
        raise _refuse("DeletedUser", "The target account has been deleted.")
    if receiver.flagged:
        message = "The target account has been flagged for suspicious activity; it cannot receive."
        raise _refuse("TargetAccountFlagged", message)


def check(sender: User, receiver: User, amount: int, *, received_recently: bool) -> None:
    """Refuse a transfer that is not allowed; raises KudosTransferRefused.

    ``received_recently`` says whether the receiver sent kudos to the sender within the last minute.
    """
    check_sender(sender)
    check_amount(amount)
    if not receiver.anonymous and receiver.id == sender.id:
        raise _refuse("KudosTransferToSelf", "You cannot transfer kudos to yourself.")
    check_receiver(receiver)
    if received_recently:
        message = (
            "This user sent you kudos within the last minute. Please wait a minute before sending "
            "kudos back."
        )
        raise _refuse("TooFastKudosTransfers", message)
    spendable = max(0, sender.kudos - sender.floor)
    if amount > spendable:
        message = f"Not enough kudos: you can transfer {spendable} of your {sender.kudos}."
        raise _refuse("KudosTransferNotEnough", message)


def check_award(giver: User, receiver: User, amount: int) -> None:
    """Refuse an award that is not allowed; raises KudosTransferRefused.

    The caller has checked that ``giver`` is an admin.
    """
    check_amount(amount)
    if receiver.anonymous:
        raise _refuse("KudosAwardToAnon", "You cannot award kudos to the anonymous account.")
    if receiver.id == giver.id:
        raise _refuse("KudosTransferToSelf", "You cannot award kudos to yourself.")
    check_receiver(receiver)
