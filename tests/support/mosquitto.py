"""A real mosquitto with the configuration that this project recommends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fleet.enrol.broker import MosquittoFiles, acl_file, password_file, reload_by_signal
from fleet.enrol.mosquitto import BrokerPlaces, Tls, mosquitto_conf
from fleet.enrol.secrets import mosquitto_hash
from tests.support.services import folder_for_anyone, free_port, service

CONTROL = "control"
CONTROL_PASSWORD = "control-password"


@dataclass(frozen=True)
class RunningBroker:
    """Where it listens, and how its users are changed."""

    port: int
    folder: Path
    files: MosquittoFiles


@contextlib.contextmanager
def running_mosquitto(tls: Tls | None = None) -> Iterator[RunningBroker]:
    """A broker that knows the control host and nobody else."""
    with folder_for_anyone() as folder:
        port = free_port()
        # As root it would become `mosquitto`, who is not on every machine.
        places = BrokerPlaces(
            "127.0.0.1", port, folder / "passwords", folder / "acl", folder, folder / "pid", tls
        )
        control = mosquitto_hash(CONTROL_PASSWORD)
        places.passwords.write_text(password_file({CONTROL: control}))
        places.acl.write_text(acl_file(CONTROL))
        config = folder / "mosquitto.conf"
        config.write_text("user root\n" + mosquitto_conf(places))
        files = MosquittoFiles(
            places.passwords,
            places.acl,
            CONTROL,
            control,
            reload_by_signal(places.pid),
            None if tls is None else tls.revocations,
        )
        with service("mosquitto", "--config", str(config), port=port):
            yield RunningBroker(port, folder, files)
