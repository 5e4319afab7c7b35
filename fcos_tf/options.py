"""Options: a field that becomes a flag, a config line and an argument.

    class AugmentationOptions(Options):
        blur: float = option(0.0, "Largest radius of a blur, in pixels; 0 = none.", least=0)

A new option needs this field and a function with a parameter `blur`; `options_for` passes it on.
"""

import csv
import dataclasses
import inspect
import io
import itertools
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar


def option(
    default: Any,
    text: str,
    *,
    choices: tuple[str, ...] = (),
    words: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    required: bool = False,
    positional: bool = False,
    means: Mapping[Any, Any] | None = None,
    also: tuple[str, ...] = (),
    harmless: bool | Callable[["Options"], bool] = False,
    per_host: bool = False,
) -> Any:
    """An option of a section.

    Args:
        default: The default value; None needs a type such as `int | None`.
        text: The help text.
        choices: The allowed values, of a list the allowed items.
        words: Allowed in place of a number.
        least: Inclusive lower limit of a number.
        most: Inclusive upper limit.
        above: Exclusive lower limit.
        required: Whether an empty value is refused.
        positional: Whether a list also takes the arguments without a flag, one item each.
        means: Value of the option -> argument of functions.
        also: Names in other programs, for the hint in the error about an unknown flag.
        harmless: Whether a resumed run may change it, as it changes nothing that is learnt,
            rounding aside: place, logging and storage of a run.
        per_host: Whether hosts of one run may differ in it: paths.
    """
    metadata = {name: value for name, value in locals().items() if name != "default"}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Options:
    """A section of options, or the options of a tool; immutable, checked by the constructor.

    Raises:
        ValueError: For a value out of its range; names the flag, expected and got.
    """

    title: ClassVar[str] = "Options"

    def __post_init__(self):
        for field in fields_of(type(self)).values():
            value = getattr(self, field.name)
            if field.metadata["required"] and not value:
                raise ValueError(f"--{field.name}: expected a value, got none")
            if value in field.metadata["words"]:
                continue
            if value is not None or field.default is not None:
                _check_type(field, value)
                _check_range(field, value)


def sections_of(kind: type[Options]) -> dict[type[Options], tuple[str, ...]]:
    """The sections of a class of options, in their order, and the names in each."""
    own = {base: vars(base).get("__annotations__", {}) for base in kind.__mro__}
    return {
        base: tuple(name for name in names if name in kind.__dataclass_fields__)
        for base, names in own.items()
        if issubclass(base, Options) and base is not Options and names
    }


def fields_of(kind: type[Options]) -> dict[str, dataclasses.Field]:
    """The options of a class by name, section after section."""
    names = itertools.chain(*sections_of(kind).values())
    return {name: kind.__dataclass_fields__[name] for name in names}


def options_for(options: Options, function: Callable, /, **arguments: Any) -> dict[str, Any]:
    """The options whose names are parameters of a function, as its arguments.

    Args:
        options: A config, or the options of a tool.
        function: A function, or a class with the parameters of `parameters_of`.
        **arguments: Further arguments; they replace options of the same name, such as `images`.

    Example:
        >>> model = FCOS(**options_for(config, FCOS, num_classes=3, class_names=names))
    """
    wanted = parameters_of(function)
    names = [name for name in fields_of(type(options)) if name in wanted]
    return {name: argument_of(options, name) for name in names} | arguments


def argument_of(options: Options, name: str) -> Any:
    """The value of an option as functions take it, see `means` of `option`."""
    value = getattr(options, name)
    return (fields_of(type(options))[name].metadata["means"] or {}).get(value, value)


def parameters_of(function: Callable) -> dict[str, Any]:
    """Parameter -> default of a function; of a class, also those that its `**kwargs` pass up."""
    if not inspect.isclass(function):
        return {n: each.default for n, each in inspect.signature(function).parameters.items()}
    found: dict[str, Any] = {}
    for base in function.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters
            found = {name: each.default for name, each in parameters.items()} | found
            if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
                break
    return found


def changed_options(options: Options, *sections: type[Options]) -> dict[str, str]:
    """The non-default options of some sections, as a config file spells them."""
    fields = itertools.chain(*(fields_of(section).values() for section in sections))
    names = {field.name for field in fields if getattr(options, field.name) != field.default}
    return {name: text for name, text in spelled(options).items() if name in names}


def fixed_options(options: Options) -> dict[str, str]:
    """The options that a resumed run must repeat, as a config file spells them."""
    harmless = {n: field.metadata["harmless"] for n, field in fields_of(type(options)).items()}
    harmless = {name: x(options) if callable(x) else x for name, x in harmless.items()}
    return {name: text for name, text in spelled(options).items() if not harmless[name]}


def common_options(options: Options) -> dict[str, str]:
    """The options common to all hosts of a run, as a config file spells them."""
    fields = fields_of(type(options))
    return {n: text for n, text in spelled(options).items() if not fields[n].metadata["per_host"]}


def to_flags(options: Options) -> str:
    """A config file with every option, one `--name=value` per line, by section."""
    texts = spelled(options)
    return "\n".join(
        f"# {section.title}\n" + "".join(f"--{name}={texts[name]}\n" for name in names)
        for section, names in sections_of(type(options)).items()
    )


def flag_value(value: Any) -> str:
    """A value as a config file spells it: true / false, and lists with commas."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(value)  # quotes items with commas
        return line.getvalue()
    return "" if value is None else str(value)


def is_list(field: dataclasses.Field) -> bool:
    """Whether an option is a list, with commas in its flag."""
    return typing.get_origin(field.type) is tuple


def item_type(field: dataclasses.Field) -> type:
    """The type of an option's value, or of the items of its list: bool, int, float or str."""
    return (*typing.get_args(field.type), field.type)[0]


def spelled(options: Options) -> dict[str, str]:
    """The options as a config file spells them."""
    return {name: flag_value(getattr(options, name)) for name in fields_of(type(options))}


def _check_type(field: dataclasses.Field, value: Any) -> None:
    expected = item_type(field)
    if is_list(field) and not isinstance(value, tuple):
        raise ValueError(f"--{field.name}: expected a tuple of {expected.__name__}, got {value!r}")
    for item in value if is_list(field) else (value,):
        # An int is a valid float; a bool is no valid number.
        if type(item) is not expected and not (expected is float and type(item) is int):
            raise ValueError(f"--{field.name}: expected {expected.__name__}, got {item!r}")
        if expected is float and not math.isfinite(item):
            raise ValueError(f"--{field.name}: expected a finite number, got {item}")


def _check_range(field: dataclasses.Field, value: Any) -> None:
    choices = field.metadata["choices"]
    for item in value if is_list(field) else (value,):
        if choices and item not in choices:
            raise ValueError(
                f"--{field.name}: expected {'some' if is_list(field) else 'one'} of "
                f"{', '.join(choices)}, got {item!r}"
            )
    above, least, most = (field.metadata[name] for name in ("above", "least", "most"))
    if (
        (above is not None and value <= above)
        or (least is not None and value < least)
        or (most is not None and value > most)
    ):
        limits = (("above", above), ("at least", least), ("at most", most))
        words = " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
        raise ValueError(f"--{field.name}: expected a number {words}, got {value}")
