"""moto, without costs that grow with the table: a transaction takes a tenth of the time.

Before each transaction moto copies the whole table with its stream, item by item, for a rollback;
it looks every attribute of every item up in its description of the API, and measures an item at
each of its attributes. Here items are copied when they are changed, stream records never, and
attributes go out as they are; expressions are split once, and what a class can do and where a
service listens is looked up once. moto also keeps every object that it ever made, for its reset;
here those alone that have files to close. What is written, refused and rolled back is as before;
``direct`` refuses items larger than DynamoDB's 400 KB in moto's place.
"""

import copy
import pickle
from collections import defaultdict, deque
from functools import cache
from typing import Any

import pytest
from moto.core import responses
from moto.core.base_backend import BaseBackend
from moto.core.common_models import BaseModel
from moto.core.serialize import BaseJSONSerializer
from moto.dynamodb import comparisons
from moto.dynamodb.models import DynamoDBBackend
from moto.dynamodb.models.dynamo_type import DynamoType, Item, LimitedSizeDict
from moto.dynamodb.models.table import Table
from moto.dynamodb.parsing import ast_nodes, expressions, validators

_update_item = DynamoDBBackend.update_item
_serialize_map = BaseJSONSerializer._serialize_type_map


def _backup(table: Any, _memo: dict[int, Any]) -> Any:
    """Return a copy whose items are the same objects: nothing changes an item in its place."""
    copied = copy.copy(table)
    copied.items = defaultdict(dict, {key: dict(rows) for key, rows in table.items.items()})
    if table.stream_shard is not None:
        copied.stream_shard = copy.copy(table.stream_shard)
        copied.stream_shard.items = list(table.stream_shard.items)
        copied.stream_shard.table = copied
    return copied


def _update_a_copy(self: Any, table_name: str, key: dict[str, Any], *args: Any, **more: Any) -> Any:
    table = self.get_table(table_name)
    hash_key, range_key = self.get_keys_value(table, key)
    item = table.get_item(hash_key, range_key)
    if item is not None:
        table.items[hash_key][range_key] = copy.deepcopy(item)
    return _update_item(self, table_name, key, *args, **more)


def _as_it_is(self: Any, serialized: Any, value: Any, shape: Any, key: str) -> None:
    if shape.value.name == "AttributeValue":
        self._default_serialize(serialized, dict(value), shape, key)
    else:
        _serialize_map(self, serialized, value, shape, key)


SCALARS = {"S", "N", "B", "BOOL", "NULL"}
"""Kinds of values that nothing changes in their place, so that copies share them."""


def _copied_item(item: Item, _memo: dict[int, Any]) -> Any:
    made = copy.copy(item)
    made.attrs = LimitedSizeDict()
    for name, value in item.attrs.items():
        made.attrs[name] = value if value.type in SCALARS else copy.deepcopy(value)
    return made


_parser: Any = vars(expressions)["UpdateExpressionParser"]
_parse = _parser.make


@cache
def _parsed(expression: str) -> Any:
    return _parse(expression)


_condition_parser: Any = vars(comparisons)["ConditionExpressionParser"]
_lex = _condition_parser._lex_condition_expression


@cache
def _tokens(condition: str) -> tuple[Any, ...]:
    return tuple(_lex(_condition_parser(condition, {}, {})))


def _lex_once(self: Any) -> deque[Any]:
    """Split a condition; moto compiles eight patterns for each of its words."""
    return deque(_tokens(self.condition_expression))


_node: Any = vars(ast_nodes)["Node"]


@cache
def _is(kind: type, kinds: Any) -> bool:
    """Say whether a class is one of these: abstract ones answer slowly."""
    return issubclass(kind, kinds)


def _isinstance(value: Any, kinds: Any) -> bool:
    kind: Any = type(value)
    return _is(kind, kinds)


@cache
def _pickled(tree: Any) -> bytes:
    return pickle.dumps(tree, pickle.HIGHEST_PROTOCOL)


def _copied_tree(value: Any) -> Any:
    """Return a copy of a parsed expression, which moto works on, or of anything else."""
    return pickle.loads(_pickled(value)) if _isinstance(value, _node) else copy.deepcopy(value)


_cast: Any = vars(DynamoType)["cast_value"].fget


def _cast_value(value: DynamoType) -> Any:
    return value.value if value.type == "S" else _cast(value)


def _traverse(self: Any, tree: Any) -> Any:
    return _descend(self, self.nodes_to_be_processed(), tree, -1)


def _descend(self: Any, kinds: tuple[type, ...], node: Any, at: int) -> Any:
    """Process the nodes of these kinds, children first, as moto does; it asks three times more."""
    parent = node.parent
    for index, child in enumerate(node.children or ()):
        self.pre_processing_of_child(node, index)
        if _isinstance(child, _node):
            _descend(self, kinds, child, index)
    if _isinstance(node, kinds):
        node = self.process(node)
        node.parent = parent
        if parent:
            parent.children[at] = node
    return node


def _count_once(self: Any, tree: Any) -> Any:
    """Count the clauses of the whole expression; moto counts those of each part of it again."""
    return self.verify_action_counts(tree)


_urls: Any = vars(BaseBackend)["urls"].fget
_urls_of: dict[type, Any] = {}


def _known_urls(self: BaseBackend) -> Any:
    """Return where a service listens; moto imports S3's module anew for each call."""
    if type(self) not in _urls_of:
        _urls_of[type(self)] = _urls(self)
    return _urls_of[type(self)]


_new = BaseModel.__new__


def _untracked(cls: Any, *_: Any, **__: Any) -> Any:
    return _new(cls) if hasattr(cls, "dispose") else object.__new__(cls)


def patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make moto's tables quick for as long as ``monkeypatch`` lasts."""
    monkeypatch.setattr(Item, "__deepcopy__", _copied_item, raising=False)
    monkeypatch.setattr(LimitedSizeDict, "__setitem__", dict.__setitem__)
    monkeypatch.setattr(_parser, "make", staticmethod(_parsed))
    monkeypatch.setattr(_condition_parser, "_lex_condition_expression", _lex_once)
    monkeypatch.setattr(validators, "deepcopy", _copied_tree)
    monkeypatch.setattr(ast_nodes, "isinstance", _isinstance, raising=False)
    monkeypatch.setattr(vars(ast_nodes)["DepthFirstTraverser"], "traverse", _traverse)
    monkeypatch.setattr(validators.ActionCountValidator, "traverse", _count_once)
    monkeypatch.setattr(DynamoType, "cast_value", property(_cast_value))
    methods_of = cache(vars(responses)["method_names_from_class"])
    monkeypatch.setattr(responses, "method_names_from_class", methods_of)
    monkeypatch.setattr(BaseBackend, "urls", property(_known_urls))
    monkeypatch.setattr(BaseModel, "__new__", _untracked)
    monkeypatch.setattr(Table, "__deepcopy__", _backup, raising=False)
    monkeypatch.setattr(DynamoDBBackend, "update_item", _update_a_copy)
    monkeypatch.setattr(BaseJSONSerializer, "_serialize_type_map", _as_it_is)
