"""``isthmus tls ca create`` and ``isthmus tls cert create``.

Source: protocol/cli-config-dns.md §1.2; protocol/federation.md §19.
"""

from pathlib import Path

from isthmus.cli.certificates import (
    CA_DAYS,
    CERTIFICATE_DAYS,
    CertificateError,
    Role,
    ca_paths,
    create_ca,
    create_certificate,
)
from isthmus.cli.command import Command, CommandFailed, say
from isthmus.cli.flags import Flag, Parsed, UsageError, switch, whole_number

_WARNING = """\
==> WARNING: A server certificate lets its holder act as a server and read all state of the
    datacenter. Keep it on server nodes only, and store it as securely as the CA's key."""


def _create_ca(args: Parsed) -> int:
    try:
        paths = create_ca(
            Path(),
            domain=args["domain"],
            days=args["days"],
            common_name=args["common-name"],
            cluster_id=args["cluster-id"],
            name_constraint=args["name-constraint"],
            constraint_names=args["additional-name-constraint"],
        )
    except CertificateError as error:
        raise CommandFailed(str(error)) from error
    for path in paths:
        say(f"==> Saved {path}")
    return 0


def _create_certificate(args: Parsed) -> int:
    roles = [role for role in Role if args[role.value]]
    if len(roles) != 1:
        raise UsageError("Please provide either -server, -client, or -cli")
    role, domain = roles[0], args["domain"]
    default_ca, default_key = ca_paths(Path(), domain)
    ca = Path(args["ca"] or default_ca)
    ca_key = Path(args["key"] or default_key)
    if role is Role.SERVER:
        say(_WARNING)
    say(f"==> Using {ca} and {ca_key}")
    try:
        paths = create_certificate(
            Path(),
            ca=ca,
            ca_key=ca_key,
            role=role,
            dc=args["dc"],
            node=args["node"],
            domain=domain,
            days=args["days"],
            dns_names=args["additional-dnsname"],
            ip_addresses=args["additional-ipaddress"],
        )
    except CertificateError as error:
        raise CommandFailed(str(error)) from error
    for path in paths:
        say(f"==> Saved {path}")
    return 0


_DOMAIN = Flag("domain", "Domain of the agents' names.", default="consul", placeholder="DOMAIN")

CA_CREATE = Command(
    "tls ca create",
    "Create a certificate authority for agents in the current directory.",
    _create_ca,
    (
        _DOMAIN,
        Flag("days", f"Days it is valid ({CA_DAYS}).", whole_number, CA_DAYS, placeholder="N"),
        Flag("common-name", "Common name of its subject."),
        Flag("cluster-id", "Id that its SPIFFE URI is made of."),
        switch("name-constraint", "It signs names in the domain and localhost only."),
        Flag("additional-name-constraint", "A further domain that it may sign.", repeated=True),
    ),
)

CERT_CREATE = Command(
    "tls cert create",
    "Create a certificate for an agent in the current directory.",
    _create_certificate,
    (
        switch("server", "For a server."),
        switch("client", "For a client agent."),
        switch("cli", "For the command line."),
        Flag("dc", "Datacenter in its names.", default="dc1", placeholder="DC"),
        Flag(
            "node",
            "Node name of the server; federation through mesh gateways needs it. With -server.",
            placeholder="NODE",
        ),
        _DOMAIN,
        Flag(
            "days",
            f"Days it is valid ({CERTIFICATE_DAYS}).",
            whole_number,
            CERTIFICATE_DAYS,
            placeholder="N",
        ),
        Flag("additional-dnsname", "A further DNS name.", repeated=True, placeholder="NAME"),
        Flag("additional-ipaddress", "A further IP address.", repeated=True, placeholder="IP"),
        Flag("ca", "File with the CA's certificate.", placeholder="FILE"),
        Flag("key", "File with the CA's key.", placeholder="FILE"),
    ),
    examples=(
        "isthmus tls cert create -server -dc dc1 -node alpha",
        "isthmus tls cert create -cli",
    ),
)
