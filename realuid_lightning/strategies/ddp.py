"""DDP for networks that train in turn: each has a wrapper of its own, so that an idle one sends nothing."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from realuid_lightning.errors import Faults, UserError
from realuid_lightning.lightning_internals import OrderedDDP, ddp_options, rerouted
from realuid_lightning.modules import MatchingModule


class PerNetworkDDP(DDPStrategy):
    """Averages the gradients of the network that trains, and of no other; ``--trainer.strategy ddp_per_network``.

    The module stays bare, so state-dict keys are those of one process. Every network that it names in
    ``MatchingModule.trained`` gets a DDP wrapper. Inside ``training_step``, calls of such a network go through its
    wrapper whenever they build a graph to weights that train, and past it otherwise: under ``no_grad``, and while
    ``frozen_weights`` holds. So losses call ``self.fake(t, x)`` as for one process.

    DDP follows calls of the network itself. A loss may call it several times before its backward pass, but each
    backward pass needs calls of its own, and a call of a part of the network (``self.generator.network(...)``) is not
    followed. If its first or last weights get gradients that way, which would stay those of one process, the run ends
    with a message.

    Args:
        ddp_comm_hook: Compresses the gradients of every network for sending, such as ``fp16_compress_hook``.
        ddp_comm_wrapper: Makes another hook of it.
        ddp_comm_state: State of a hook; refused, for it belongs to one wrapper.
        gradient_as_bucket_view: Whether gradients are views of what is sent.
        broadcast_buffers: Whether every call sends the buffers. The module sends them once a training step.
        kwargs: Further arguments of Lightning's ``DDPStrategy`` and of ``DistributedDataParallel``, used for every
            network.

    Raises:
        UserError: If ``ddp_comm_state`` is given.
    """

    name: ClassVar[str] = "ddp_per_network"
    per_network: ClassVar[bool] = True
    """What tells modules that networks may train in turn."""

    def __init__(
        self,
        ddp_comm_hook: Callable[..., Any] | None = None,
        ddp_comm_wrapper: Callable[..., Any] | None = None,
        ddp_comm_state: object = None,
        gradient_as_bucket_view: bool = True,
        broadcast_buffers: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(gradient_as_bucket_view=gradient_as_bucket_view, broadcast_buffers=broadcast_buffers, **kwargs)
        if ddp_comm_state is not None:
            raise UserError(
                f"trainer.strategy: ddp_comm_state belongs to one wrapper, but {self.name} has one for each network; "
                "leave it out, and choose a ddp_comm_hook without state (fp16_compress_hook, bf16_compress_hook)"
            )
        if ddp_comm_hook is not None and ddp_comm_wrapper is not None:
            ddp_comm_hook = ddp_comm_wrapper(ddp_comm_hook)
        self.comm_hook = ddp_comm_hook
        self._routed: dict[str, _RoutedNetwork] = {}

    @property
    def wrappers(self) -> dict[str, DistributedDataParallel]:
        """The wrapper of each trained network, by its name; empty outside of ``fit``."""
        return {name: routed.wrapper for name, routed in self._routed.items()}

    def configure_ddp(self) -> None:
        """Wrap each trained network, and leave the module as it is.

        Raises:
            UserError: If the module does not say what it trains, or not all of it.
        """
        module = self.lightning_module
        if not isinstance(module, MatchingModule):
            raise UserError(
                f"trainer.strategy: {self.name} expects a module that names its trained networks, a MatchingModule, "
                f"got {type(module).__name__}; use ddp for it"
            )
        self._check(module)
        self._release()
        self._routed = {
            name: _RoutedNetwork(self._wrapped(part, name in module.partly_trained))
            for name, part in module.trained.items()
        }

    def _wrapped(self, network: nn.Module, partly: bool) -> DistributedDataParallel:
        options = ddp_options(self)
        if partly:  # weights that get no gradient are looked for, where they are known to be
            options = {**options, "find_unused_parameters": True}
        device_ids = self.determine_ddp_device_ids()
        apart = nullcontext() if device_ids is None else torch.cuda.stream(torch.cuda.Stream(self.root_device))  # type: ignore[no-untyped-call]
        with apart:
            wrapper = OrderedDDP(module=network, device_ids=device_ids, **options)
        if self.comm_hook is not None:
            wrapper.register_comm_hook(None, self.comm_hook)
        return wrapper

    def _check(self, module: MatchingModule) -> None:
        """Refuse weights that no wrapper would keep alike on all processes."""
        known = {id(weight) for network in module.trained.values() for weight in network.parameters()}
        left = [name for name, weight in module.named_parameters() if weight.requires_grad and id(weight) not in known]
        faults = Faults(type(module).__name__)
        faults.unless(
            not left,
            f"trainer.strategy {self.name} expects every weight that trains in one of the networks of `trained` "
            f"({', '.join(module.trained)}), got {', '.join(left[:5])} beside them; add that network to `trained`, or "
            "use ddp_find_unused_parameters_true",
        )
        faults.raise_any()

    def training_step(self, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Make a training step, in which calls of the trained networks go through their wrappers."""
        with ExitStack() as stack:
            for routed in self._routed.values():
                stack.enter_context(routed.calls())
            return super().training_step(*args, **kwargs)

    def post_backward(self, closure_loss: Tensor) -> None:
        """Make sure that the backward pass left no gradients that differ between processes."""
        super().post_backward(closure_loss)
        for name, routed in self._routed.items():
            routed.check(name)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Keep gradients to this process while they are accumulated."""
        with ExitStack() as stack:
            for wrapper in self.wrappers.values():
                stack.enter_context(wrapper.no_sync())
            yield

    def teardown(self) -> None:
        """Let go of the wrappers."""
        self._release()
        super().teardown()

    def _release(self) -> None:
        for routed in self._routed.values():
            routed.release()
        self._routed = {}


class _RoutedNetwork:
    """A trained network and its wrapper.

    Args:
        wrapper: The wrapper.
    """

    def __init__(self, wrapper: DistributedDataParallel) -> None:
        self.wrapper = wrapper
        self.network: nn.Module = wrapper.module
        self._called = self._reached = False
        weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        # Two are enough to see gradients arrive: a part of a network holds its beginning or its end.
        self._hooks = [weight.register_post_accumulate_grad_hook(self._reach) for weight in (weights[0], weights[-1])]

    def _reach(self, _: Tensor) -> None:
        self._reached = True

    def calls(self) -> AbstractContextManager[None]:
        """Send calls of the network through the wrapper where they train it."""
        inside = False

        def route(direct: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            trains = torch.is_grad_enabled() and any(weight.requires_grad for weight in self.network.parameters())
            if inside or not trains:
                return direct(*args, **kwargs)
            inside = self._called = True
            try:
                return self.wrapper(*args, **kwargs)
            finally:
                inside = False

        return rerouted(self.network, route)

    def check(self, name: str) -> None:
        """Raise if a backward pass reached the network without a call of it.

        Raises:
            UserError: With what to call.
        """
        if not self._reached:
            return
        called, self._called, self._reached = self._called, False, False
        if not called:
            raise UserError(
                f"trainer.strategy: {PerNetworkDDP.name} expects a call of {name} before each backward pass, got "
                f"gradients of {name} past it, which would differ between processes; in training_step call "
                f"self.{name}(...) rather than a part of it, and anew for each backward pass"
            )

    def release(self) -> None:
        """Stop watching the network."""
        for hook in self._hooks:
            hook.remove()
