"""Prints the import graph by room: `python -m scripts.imports`.

The rooms are `shared`, `bus`, `proposer` and the children of `trainer`. A room stands one level above the highest room
that it imports. The contracts in pyproject.toml say which imports are allowed; `lint-imports` checks them.
"""

from graphlib import TopologicalSorter

import grimp

PACKAGES = ("shared", "bus", "trainer", "proposer")


def rooms() -> dict[str, set[str]]:
    """The rooms that each room imports, also inside functions and for types only."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    found: dict[str, set[str]] = {_room(module): set() for module in graph.modules}
    for module in graph.modules:
        imported = map(_room, graph.find_modules_directly_imported_by(module))
        found[_room(module)].update(room for room in imported if room != _room(module))
    return found


def levels(graph: dict[str, set[str]]) -> dict[str, int]:
    """The level of each room, 0 for those that import none.

    Raises:
        graphlib.CycleError: rooms import each other in a circle.
    """
    found: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        found[room] = max((found[below] + 1 for below in graph[room]), default=0)
    return found


def _room(module: str) -> str:
    top, *inside = module.split(".")
    return f"trainer.{inside[0]}" if top == "trainer" and inside else top


def main() -> None:
    """Print the rooms, the highest first, each with what it imports."""
    graph = rooms()
    height = levels(graph)
    for room in sorted(graph, key=lambda room: (-height[room], room)):
        below = sorted(graph[room], key=lambda room: (-height[room], room))
        print(f"{height[room]:2}  {room:18}  {', '.join(below)}".rstrip())
    print(f"\n{len(graph)} rooms, {sum(map(len, graph.values()))} arrows")


if __name__ == "__main__":
    main()
