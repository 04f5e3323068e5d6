"""`SpecStore`: specs by hash, and by the name under which workers published them."""

from __future__ import annotations

from flujo_client.protocol.errors import UnknownPipelineError
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.spec import LATEST, PipelineSpec
from flujo_client.protocol.spec_text import load_spec, spec_text

__all__ = ["SpecStore"]

#: Pipelines that are made for one run each would else fill a manager's memory.
MOST_REMEMBERED = 1_000


class SpecStore:
    """Reads specs. Remembers the last thousand by hash: a spec never changes.

    Args:
        scripts: On the Redis that holds the specs.
    """

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._specs: dict[str, PipelineSpec] = {}

    async def get(self, spec_hash: str, run_id: str) -> PipelineSpec:
        """The spec of a run, which its shard keeps as long as the run.

        Raises:
            UnknownPipelineError: It is not stored; or the hash is "", of a submission that was refused.
            SchemaMismatchError: A newer release wrote it.
        """
        if not spec_hash:
            raise UnknownPipelineError(
                "The submission was refused, so the run has no steps.", suggestion="`flujo show` says why."
            )
        return await self._read(spec_hash, self._scripts.keyspace.shard_of(run_id))

    async def _read(self, spec_hash: str, shard: int) -> PipelineSpec:
        known = self._specs.get(spec_hash)
        if known is not None:
            return known
        text = await self._scripts.commands.execute("HGET", self._scripts.keyspace.shard("specs", shard), spec_hash)
        if text is None:
            raise UnknownPipelineError(
                f"No spec {spec_hash} is stored.", suggestion="Start a worker that serves the pipeline."
            )
        spec = load_spec(text)
        self.remember(spec)
        return spec

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
        return await self._read(spec_hash.decode(), 0)

    async def is_published(self, spec: PipelineSpec) -> bool:
        """Whether a worker has ever published exactly this pipeline."""
        field = f"{spec.name}@{spec.content_hash}"
        key = self._scripts.keyspace.shard("pipelines")
        return bool(await self._scripts.commands.execute("HEXISTS", key, field))

    async def keep(self, spec: PipelineSpec, run_id: str) -> None:
        """Store a spec for a run that is about to be made. What its name means to others is for workers to say.

        Raises:
            ConfigurationError: It is too large.
        """
        await self._scripts.keep_spec(run_id, spec.content_hash, spec_text(spec))
        self.remember(spec)

    def remember(self, spec: PipelineSpec) -> None:
        """Know a spec without reading it. Of more than a thousand the one known longest is forgotten."""
        if len(self._specs) >= MOST_REMEMBERED:
            del self._specs[next(iter(self._specs))]
        self._specs[spec.content_hash] = spec
