"""`PipelineRegistry`: pipelines by name and version, for programs that run several releases of one."""

from __future__ import annotations

from packaging.version import InvalidVersion, Version

from flujo_client.dsl.pipeline import Pipeline

__all__ = ["PipelineRegistry"]


class PipelineRegistry:
    """Holds pipelines in this process. Versions are those of PEP 440, and compared as it says."""

    def __init__(self) -> None:
        self._pipelines: dict[str, dict[Version, Pipeline]] = {}

    def register(self, pipeline: Pipeline, name: str, version: str) -> None:
        """Take a pipeline in, under a name and a version; the same again replaces it.

        Raises:
            ValueError: The version is none of PEP 440.
        """
        known = self._pipelines.setdefault(name, {})
        known[_version(version)] = pipeline.named(name, version=version)

    def get(self, name: str, version: str) -> Pipeline | None:
        """The pipeline of this name and version; of "latest" that of the newest version. None if there is none.

        Raises:
            ValueError: The version is none of PEP 440, nor "latest".
        """
        if version == "latest":
            return self.get_latest(name)
        return self._pipelines.get(name, {}).get(_version(version))

    def get_latest_version(self, name: str) -> str | None:
        """The newest version of a name; a pre-release only if there is nothing else. None if the name is unknown."""
        known = self._pipelines.get(name, {})
        released = [version for version in known if not version.is_prerelease]
        return str(max(released or known)) if known else None

    def get_latest(self, name: str) -> Pipeline | None:
        """The pipeline of a name's newest version; None if the name is unknown."""
        version = self.get_latest_version(name)
        return None if version is None else self.get(name, version)


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion as error:
        raise ValueError(f"'{text}' is no version of PEP 440, such as 1.2.0 or 2.0rc1.") from error
