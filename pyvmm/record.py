"""Plain records: `dataclasses` as far as this package uses it, without importing it before the guest runs.

`dataclasses` imports `inspect`, and builds each class from source text: 18 ms here, a third of a whole start
(docs/adr/0006). To a type checker `record` is `dataclasses.dataclass`; at run time it is the small one below: keyword
and positional construction, defaults, ``==``, hash when frozen, repr, copy and pickle, slots always. What a user may
ask of a dataclass afterwards (`dataclasses.fields`, `replace`, `asdict`, `inspect.signature`) is answered by a real
one that is made at that moment. Left out: ordering, inheritance of fields, `__post_init__`, ``field(init=False)``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as record
    from dataclasses import field, replace
else:

    class _Factory:
        """A default that is made anew for each record."""

        __slots__ = ("make",)

        def __init__(self, make):
            self.make = make

    def field(*, default_factory):
        """Mark a field whose default is ``default_factory()``."""
        return _Factory(default_factory)

    def replace(original, /, **changes):
        """Return a copy with some fields changed."""
        for name in original.__match_args__:
            changes.setdefault(name, getattr(original, name))
        return type(original)(**changes)

    def record(cls=None, /, *, frozen=False, slots=True):
        """Make a record of a class body with annotated fields."""
        if not slots:
            raise TypeError("a record has slots")
        return (lambda body: _make(body, frozen)) if cls is None else _make(cls, frozen)

    def _make(body, frozen):
        annotations = body.__dict__.get("__annotations__", {})  # noqa: RUF063 - it imports inspect
        names = tuple(annotations)
        namespace = dict(body.__dict__)
        for key in ("__dict__", "__weakref__"):
            namespace.pop(key, None)
        defaults = {name: namespace.pop(name) for name in names if name in namespace}
        given = {
            "__slots__": names,
            "__match_args__": names,
            "__init__": _constructor(body.__name__, names, defaults),
            "__repr__": _repr,
            "__eq__": _equal,
            "__hash__": _hash if frozen else None,
            "__reduce__": _reduce,
        }
        if frozen:
            given |= {"__setattr__": _refuse_assignment, "__delattr__": _refuse_deletion}
        for name, value in given.items():
            if (
                name == "__hash__" or name not in namespace
            ):  # a class body with __eq__ alone has __hash__ = None
                namespace[name] = value
        namespace["__dataclass_fields__"] = _Twin(defaults, frozen, "__dataclass_fields__")
        namespace["__dataclass_params__"] = _Twin(defaults, frozen, "__dataclass_params__")
        namespace["__signature__"] = _Twin(defaults, frozen, None)
        return type(body)(body.__name__, body.__bases__, namespace)

    def _constructor(class_name, names, defaults):
        store = object.__setattr__
        known = frozenset(names)

        def __init__(self, *values, **named):  # noqa: N807 - becomes the class's
            if len(values) > len(names):
                raise TypeError(f"{class_name}() takes {len(names)} fields and {len(values)} were given")
            if not named.keys() <= known:
                unknown = ", ".join(sorted(named.keys() - known))
                raise TypeError(f"{class_name}() has no field {unknown}")
            for name, value in zip(names, values):  # noqa: B905 - fewer values than names
                if name in named:
                    raise TypeError(f"{class_name}() got field {name} twice")
                store(self, name, value)
            missing = []
            for name in names[len(values) :]:
                if name in named:
                    store(self, name, named[name])
                elif name in defaults:
                    value = defaults[name]
                    store(self, name, value.make() if type(value) is _Factory else value)
                else:
                    missing.append(name)
            if missing:
                raise TypeError(f"{class_name}() is missing {', '.join(missing)}")

        return __init__

    def _values(self):
        return tuple([getattr(self, name) for name in self.__match_args__])

    def _repr(self):
        fields = ", ".join([f"{name}={getattr(self, name)!r}" for name in self.__match_args__])
        return f"{type(self).__qualname__}({fields})"

    def _equal(self, other):
        return _values(self) == _values(other) if type(other) is type(self) else NotImplemented

    def _hash(self):
        return hash(_values(self))

    def _reduce(self):
        return type(self), _values(self)

    def _refuse_assignment(self, name, value):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def _refuse_deletion(self, name):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot delete field {name!r}")

    class _Twin:
        """What the standard library asks a dataclass for, taken from a real one of the same fields."""

        __slots__ = ("attribute", "defaults", "frozen")

        def __init__(self, defaults, frozen, attribute):
            self.defaults = defaults
            self.frozen = frozen
            self.attribute = attribute

        def __get__(self, instance, owner):
            import dataclasses
            import inspect

            fields = []
            for name, kind in owner.__annotations__.items():
                default = self.defaults.get(name, dataclasses.MISSING)
                if type(default) is _Factory:
                    fields.append((name, kind, dataclasses.field(default_factory=default.make)))
                else:
                    fields.append((name, kind, dataclasses.field(default=default)))
            twin = dataclasses.make_dataclass(owner.__name__, fields, frozen=self.frozen)
            return inspect.signature(twin) if self.attribute is None else getattr(twin, self.attribute)


__all__ = ["field", "record", "replace"]
