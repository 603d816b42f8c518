"""What a process remembers stays bounded."""

from horde.store.remembered import MOST, Remembered


def test_a_process_remembers_no_more_names_than_its_memory_holds_whatever_clients_send() -> None:
    remembered = Remembered[str, int]()
    sizes = set()
    for number in range(3 * MOST):
        assert remembered.put(f"name {number}", number) == number
        assert remembered[f"name {number}"] == number
        sizes.add(len(remembered))
    assert max(sizes) == MOST
