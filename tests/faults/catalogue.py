"""Every fault that can be injected, by its name in the list of faults."""

from __future__ import annotations

from tests.faults.crowd_faults import CROWD_FAULTS
from tests.faults.deploy_faults import DEPLOY_FAULTS
from tests.faults.failover_faults import FAILOVER_FAULTS
from tests.faults.failpoints import die_at_a_place
from tests.faults.leave_faults import LEAVE_FAULTS
from tests.faults.poison_faults import POISON_FAULTS
from tests.faults.processes import PROCESS_FAULTS
from tests.faults.rabbit_faults import RABBIT_FAULTS
from tests.faults.redis_faults import REDIS_FAULTS
from tests.faults.rounds import FaultTable
from tests.faults.stream_faults import STREAM_FAULTS
from tests.faults.wire_faults import WIRE_FAULTS

__all__ = ["FAULTS", "ON_RABBITMQ", "faults_on"]

FAULTS: FaultTable = {
    **PROCESS_FAULTS,
    **REDIS_FAULTS,
    **WIRE_FAULTS,
    **POISON_FAULTS,
    **CROWD_FAULTS,
    **STREAM_FAULTS,
    **FAILOVER_FAULTS,
    **DEPLOY_FAULTS,
    **LEAVE_FAULTS,
    "F4": ("death at each place between two effects", die_at_a_place),
}

#: The same with RabbitMQ for the messages: it repeats them in another way, and may itself restart.
ON_RABBITMQ: FaultTable = {**FAULTS, **RABBIT_FAULTS}


def faults_on(broker: str) -> FaultTable:
    """What can be played where a broker of this kind carries the messages."""
    return ON_RABBITMQ if broker == "rabbitmq" else FAULTS
