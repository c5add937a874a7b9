"""Generators on the Hugging Face Hub, and in folders of its layout (extra ``hub``)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from realuid_lightning.checkpoints import load_generator, write_generator
from realuid_lightning.errors import UserError
from realuid_lightning.networks import Generator

try:
    from huggingface_hub import ModelHubMixin, hf_hub_download
except ImportError as error:
    raise UserError(
        "realuid_lightning.hub needs huggingface_hub, which is not installed: pip install 'realuid-lightning[hub]'"
    ) from error

FILE = "generator.safetensors"
"""The one file of a generator in its repository, beside card and config."""


ABOUT: Any = {"library_name": "realuid_lightning", "tags": ["one-step-generation", "realuid"]}
"""What its cards say of every generator."""


class HubGenerator(nn.Module, ModelHubMixin, **ABOUT):  # type: ignore[misc, unused-ignore]  # it may not be installed
    """A generator with ``push_to_hub`` and ``from_pretrained``, as huggingface_hub gives them.

    ``HubGenerator(load_generator("last.ckpt", ema=0.999)).push_to_hub("me/digits")`` takes it there, and
    ``HubGenerator.from_pretrained("me/digits")(z)`` makes samples of it. What lies there is an export, which
    ``load_generator`` opens as well; nothing of a repository is executed. A README.md that is in the folder stays, such
    as the card that ``realuid export --card`` has written.

    Args:
        generator: The generator, of ``load_generator``.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return samples; arguments as those of ``Generator``."""
        samples: Tensor = self.generator(*inputs, **named)
        return samples

    def _save_pretrained(self, save_directory: Path) -> None:
        write_generator(self.generator, save_directory / FILE)

    @classmethod
    def _from_pretrained(  # type: ignore[override, unused-ignore]  # words that it does not know are refused
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        trust: Sequence[str] = (),
    ) -> "HubGenerator":
        """Return the generator of a folder, or of a repository; ``trust`` as in ``load_generator``."""
        where: Any = {"revision": revision, "cache_dir": cache_dir, "force_download": force_download}
        folder = Path(model_id)
        file: Any = (
            folder / FILE
            if folder.is_dir()
            else hf_hub_download(model_id, FILE, token=token, local_files_only=local_files_only, **where)
        )
        return cls(load_generator(file, trust=trust))
