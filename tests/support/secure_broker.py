"""A real Apache Kafka with TLS, passwords and rights: one broker with a listener for each case of the tests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
)

from deploy.kafka.broker import KafkaCluster, Listener
from tests.support import certificates
from tests.support.certificates import Identity

PASSWORD = "correct horse battery staple 8472"
USERS = dict.fromkeys(("alice", "reader", "bob", "carol", "dave", "erin", "frank"), PASSWORD)
KEY_PASSWORD = "open sesame 5150"
TOPIC, GROUP, TRANSACTION = ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID
READ, WRITE, CREATE, DESCRIBE = ACLOperation.READ, ACLOperation.WRITE, ACLOperation.CREATE, ACLOperation.DESCRIBE
DESCRIBE_CONFIGS, ALL = ACLOperation.DESCRIBE_CONFIGS, ACLOperation.ALL


@dataclass(frozen=True)
class SecureBroker:
    """The cluster and the files that its clients need.

    Whoever comes in by the plain listener may do everything; users and certificates have the rights that `grant` gives.
    """

    cluster: KafkaCluster
    folder: Path
    ca: Path
    other_ca: Path
    client: Identity
    sealed: Identity
    stranger: Identity

    def servers(self, listener: str) -> list[str]:
        """Return the servers of a listener."""
        return self.cluster.servers_of(listener)

    def password_file(self, password: str = PASSWORD) -> Path:
        """Return a new file with a password."""
        path = self.folder / f"password-{len(list(self.folder.glob('password-*')))}"
        path.write_text(password + "\n")
        path.chmod(0o600)
        return path

    def grant(self, user: str, kind: ResourceType, name: str, *operations: ACLOperation) -> None:
        """Give a user rights on all resources whose names begin with a name."""
        pattern = ResourcePattern(kind, name, ACLResourcePatternType.PREFIXED)
        acls = [ACL(f"User:{user}", "*", operation, ACLPermissionType.ALLOW, pattern) for operation in operations]
        admin = KafkaAdminClient(bootstrap_servers=self.cluster.servers)
        try:
            made = admin.create_acls(acls)
            assert len(made["succeeded"]) == len(acls), made
        finally:
            admin.close()


def secure_broker(folder: Path) -> SecureBroker:
    """Make the certificates and describe the broker; entering its cluster starts it."""
    files = folder / "certificates"
    files.mkdir(parents=True)
    ca = certificates.authority(files, "ca")
    other = certificates.authority(files, "other-ca")
    hosts = ("localhost", "127.0.0.1")
    server = certificates.identity(files, ca, "server", hosts)
    ended = (timedelta(days=-9), timedelta(hours=-1))
    expired = certificates.identity(files, ca, "expired", hosts, *ended)
    misnamed = certificates.identity(files, ca, "misnamed", ("kafka.example.org",))
    trust = {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(ca.path)}

    def keys(shown: Identity) -> dict[str, str]:
        return {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(shown.both), **trust}

    login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    scram = {"sasl.enabled.mechanisms": "SCRAM-SHA-512", "scram-sha-512.sasl.jaas.config": login}
    listeners = {
        "tls": Listener("SSL", keys(server)),
        "mutual": Listener("SSL", keys(server) | {"ssl.client.auth": "required"}),
        "expired": Listener("SSL", keys(expired)),
        "misnamed": Listener("SSL", keys(misnamed)),
        "scram": Listener("SASL_SSL", keys(server) | scram),
    }
    options = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:alice;User:CN=client;User:CN=sealed",
    }
    return SecureBroker(
        KafkaCluster(folder / "kafka", options=options, listeners=listeners, scram=USERS),
        files,
        ca.path,
        other.path,
        certificates.identity(files, ca, "client"),
        certificates.identity(files, ca, "sealed", key_password=KEY_PASSWORD),
        certificates.identity(files, other, "stranger"),
    )
