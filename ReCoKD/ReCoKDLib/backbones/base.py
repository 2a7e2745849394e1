"""What an entry of the registry has to say of its network class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import PlanError

if TYPE_CHECKING:
    from torch import nn

    from ..plan import Int3

Kwargs = Mapping[str, Any]


def triple(values: Any, kind: type, what: str) -> Any:
    """Three numbers of a kind, one for each axis; one number stands for three.

    Raises:
        PlanError: It is anything else.
    """
    if isinstance(values, (int, float)):
        values = (values,) * 3
    if not isinstance(values, Sequence) or len(values) != 3:
        raise PlanError(
            f"The plan's {what} should be three numbers, one for each axis; it is {values!r}. "
            "Use a 3D configuration (3d_fullres or 3d_lowres)."
        )
    return tuple(kind(v) for v in values)


def narrow(channels: int, t: int, minimum: int) -> int:
    """max(minimum, C / 2^t), but never more than C (ReCo-KD's student)."""
    return max(min(minimum, channels), channels >> t)


class Backbone(ABC):
    """What is known of a network class. ``kwargs`` are always a plan's ``arch_kwargs``.

    Attributes:
        name: For people and command lines.
        class_name: What a plan calls it.
        arguments: The keyword arguments that a plan may give; input and output channels are never among them.
        imports: Those of :meth:`for_topology` whose values are dotted names of classes.
        encoder_returns_stages: Whether the network has an ``encoder`` that returns the list of all stages' features,
            bottleneck last, and a ``decoder`` that takes it.
    """

    name: ClassVar[str]
    class_name: ClassVar[str]
    arguments: ClassVar[frozenset[str]]
    imports: ClassVar[tuple[str, ...]] = ()
    encoder_returns_stages: ClassVar[bool] = False

    @abstractmethod
    def features(self, kwargs: Kwargs) -> tuple[int, ...]:
        """Channels of each encoder stage, full resolution first, bottleneck last."""

    @abstractmethod
    def strides(self, kwargs: Kwargs) -> tuple[Int3, ...]:
        """Stride of each encoder stage along the plan's axes; the patch must be divisible by their product."""

    @abstractmethod
    def stage_paths(self, kwargs: Kwargs) -> tuple[str, ...]:
        """The modules whose outputs are the encoder stages' features, as ``named_modules`` calls them."""

    def ends_in_activation(self, kwargs: Kwargs) -> bool:
        """Whether an encoder stage's output has gone through norm and activation, or is still a sum of residuals."""
        return True

    @abstractmethod
    def outputs(self, kwargs: Kwargs) -> int:
        """How many outputs the network has under deep supervision."""

    @abstractmethod
    def narrowed(self, kwargs: Kwargs, t: int, minimum: int) -> dict[str, Any]:
        """The arguments of the student with max(minimum, C / 2^t) channels in each stage."""

    @abstractmethod
    def for_topology(
        self, features: Sequence[int], strides: Sequence[Int3], kernel_sizes: Sequence[Int3]
    ) -> dict[str, Any]:
        """The arguments of a full-size network with these stages, as far as this class can have them.

        Raises:
            PlanError: The class has no such network.
        """

    @abstractmethod
    def build(self, kwargs: Kwargs, in_channels: int, out_channels: int, deep_supervision: bool) -> nn.Module:
        """The network: (B, in, D, H, W) to (B, out, D, H, W), or under deep supervision to a list of such.

        The list has full resolution first, each output at its own resolution. The weights' names and shapes do
        not depend on ``deep_supervision``.

        Args:
            kwargs: Checked, with classes in place of their names.
            in_channels: Input channels.
            out_channels: Heads.
            deep_supervision: Whether to return all outputs.
        """

    def check(self, kwargs: Kwargs) -> None:
        """Refuse arguments that are not on the list or not JSON values.

        Raises:
            PlanError: The first of them is named.
        """
        for key, value in kwargs.items():
            if key not in self.arguments:
                raise PlanError(
                    f"The plan gives {self.name} the argument {key!r}, which is not known here. "
                    f"Known: {', '.join(sorted(self.arguments))}."
                )
            if not _is_json(value):
                raise PlanError(f"The plan's {key} for {self.name} is not a plain value: {value!r}.")


def _is_json(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_json(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))
