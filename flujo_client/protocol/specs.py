"""`SpecStore`: specs by hash, and by the name under which workers published them."""

from __future__ import annotations

from flujo_client.protocol.errors import UnknownPipelineError
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.spec import LATEST, PipelineSpec
from flujo_client.protocol.spec_text import load_spec, spec_text

__all__ = ["SpecStore"]


class SpecStore:
    """Reads and keeps specs. Caches them by hash: a spec never changes.

    Args:
        scripts: On the Redis that holds the specs.
    """

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._specs: dict[str, PipelineSpec] = {}

    async def get(self, spec_hash: str) -> PipelineSpec:
        """The spec of this hash.

        Raises:
            UnknownPipelineError: It is not stored; or the hash is "", of a submission that was refused.
            SchemaMismatchError: A newer release wrote it.
        """
        if not spec_hash:
            raise UnknownPipelineError(
                "The submission was refused, so the run has no steps.", suggestion="`flujo show` says why."
            )
        if spec_hash not in self._specs:
            text = await self._scripts.commands.execute("HGET", self._scripts.keyspace.shard("specs"), spec_hash)
            if text is None:
                raise UnknownPipelineError(
                    f"No spec {spec_hash} is stored.", suggestion="Start a worker that serves the pipeline."
                )
            self._specs[spec_hash] = load_spec(text)
        return self._specs[spec_hash]

    async def by_name(self, pipeline: str, version: str = LATEST) -> PipelineSpec:
        """The newest spec that workers published under a name, or that of a version.

        Raises:
            UnknownPipelineError: None did; names those that are published.
        """
        key = self._scripts.keyspace.shard("pipelines")
        field = pipeline if version == LATEST else f"{pipeline}=={version}"
        spec_hash = await self._scripts.commands.execute("HGET", key, field)
        if spec_hash is None:
            fields = await self._scripts.commands.execute("HKEYS", key)
            known = sorted(name.decode() for name in fields if b"@" not in name)
            raise UnknownPipelineError(
                f"No worker has published a pipeline named '{field}'; published: {', '.join(known) or 'none'}.",
                suggestion="Start a worker with FLUJO_PIPELINES naming its module, or correct the name.",
                pipeline=pipeline,
            )
        return await self.get(spec_hash.decode())

    async def is_published(self, spec: PipelineSpec) -> bool:
        """Whether a worker has ever published exactly this pipeline."""
        field = f"{spec.name}@{spec.content_hash}"
        key = self._scripts.keyspace.shard("pipelines")
        return bool(await self._scripts.commands.execute("HEXISTS", key, field))

    async def keep(self, spec: PipelineSpec) -> None:
        """Store a spec for runs of it. What its name means to others is for workers to say. Again: nothing.

        Raises:
            ConfigurationError: It is too large.
        """
        if spec.content_hash not in self._specs:
            key = self._scripts.keyspace.shard("specs")
            await self._scripts.commands.execute("HSETNX", key, spec.content_hash, spec_text(spec))
            self._specs[spec.content_hash] = spec
