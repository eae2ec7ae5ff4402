"""campaign.yaml as `autohyp init` writes it: every field with its description and its default, commented out.

Generated from the configuration's models, so it cannot fall behind them. A line beginning `##` explains;
taking the `# ` off a line beginning `# ` sets the field (and its section's name, where it has one).
"""

from __future__ import annotations

import json
import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from autohyp.config import CampaignConfig

__all__ = ["config_template"]

_WIDTH = 100

_HEAD = """\
## campaign.yaml: what `autohyp run` reads in this folder. All fields are optional; each shows its default.
## null means: decided by the profile or the machine. To set a field, take the "# " off its line (and off the
## line with its section's name). A mistake is named before anything starts.
"""


def config_template() -> str:
    """The text of the file."""
    blocks = [_HEAD]
    for name, field in CampaignConfig.model_fields.items():
        section = _section_of(field)
        blocks.append(_section(name, section) if section else _setting(name, field, ""))
    return "\n".join(blocks)


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _section(name: str, model: type[BaseModel]) -> str:
    lines = _comment((model.__doc__ or "").split("\n\n")[0], "") + f"# {name}:\n"
    return lines + "".join(_setting(key, field, "  ") for key, field in model.model_fields.items())


def _setting(name: str, field: FieldInfo, indent: str) -> str:
    return _comment(field.description or "", indent) + f"# {indent}{name}: {_yaml(field)}\n"


def _comment(text: str, indent: str) -> str:
    lines = textwrap.wrap(" ".join(text.split()), _WIDTH - len(indent))
    return "".join(f"## {indent}{line}\n" for line in lines)


def _yaml(field: FieldInfo) -> str:
    """The default as YAML on one line; JSON is a part of YAML."""
    value: Any = field.get_default(call_default_factory=True)
    if isinstance(value, str) and value.isidentifier():
        return value
    return json.dumps(value, default=str)
