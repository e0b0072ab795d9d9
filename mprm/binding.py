"""A dataclass made of a node of the configuration, with one clear line for every mistake in it."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigKeyError,
    ConfigTypeError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from mprm.tasks import GROUPS
from mprm.terminal import type_name, unknown_key

MAY_BE_EMPTY = ("system", "instruction")  # texts for the model


def component(target: Any, group: str) -> type:
    """The dataclass of that name, whoever wrote it."""
    if target == "mprm.judge.judge.Judge":  # in the judges of earlier versions
        target = "mprm.judge.judge.JudgeSettings"
    module, _, name = str(target).rpartition(".")
    reason, found = "", None
    try:
        found = getattr(import_module(module), name, None)
    except (ImportError, TypeError, ValueError) as error:  # the last two: of a name that begins or ends with a dot
        reason = f" ({error})"
    if isinstance(found, type) and is_dataclass(found):
        return found
    raise ValueError(
        f"{group}._target_={target} names no component{reason}; leave it as the files in conf/{group} have it"
    )


def fill(cls: type, values: Mapping[str, Any], group: str) -> Any:
    """An instance of the dataclass `cls`, every key and type checked; `group` is named in the messages."""
    prefix, filled = f"{group}." if group else "", OmegaConf.structured(cls)
    OmegaConf.set_readonly(filled, False)  # until the frozen instance is made of it
    try:
        try:
            filled.merge_with(values)  # all at once, in half the time
        except OmegaConfBaseException:
            for key, value in values.items():  # which one it was
                OmegaConf.merge(cls, {key: value})
        for key, value in values.items():
            if value == "" and key not in MAY_BE_EMPTY:
                raise ValueError(f"{prefix}{key}= is empty; give a value, or leave it out")
        for key, value in vars(made := OmegaConf.to_object(filled)).items():  # what the class itself does not refuse
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int | float) and not 0 <= number <= 2**53:  # nan, too
                    raise ValueError(f"{prefix}{key}={value} is not in [0, 2**53]; give another number")
        return made
    except ConfigKeyError as error:
        known = [field.name for field in fields(cls)]
        message = unknown_key(f"{prefix}{error.full_key}", known if group else [*GROUPS, *known])
    except (ValidationError, ConfigTypeError):
        wanted = {field.name: field.type for field in fields(cls)}[key]
        message = f"{prefix}{key}={'null' if value is None else value} has the wrong type; give {type_name(wanted)}"
    except MissingMandatoryValue as error:
        message = f"{prefix}{error.key} is missing; give {prefix}{error.key}=..."
    raise ValueError(message)


def resolved(node: DictConfig, group: str) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key or group} cannot be resolved: {str(error).splitlines()[0]}") from error
