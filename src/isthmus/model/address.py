"""The best address of a service instance, seen from inside its datacenter or from another.

Source: protocol/mesh.md §3.3, "Best address".
"""

from isthmus.model.catalog import CheckServiceNode, ServiceAddress

WAN = "wan"


def lan_address(instance: CheckServiceNode) -> tuple[str, int]:
    """Best address inside the datacenter: the service's, else its node's.

    Returns:
        Host and port; an empty host or port 0 when the record has none.
    """
    service, node = instance.service, instance.node
    if service is None:
        return "", 0
    return service.address or (node.address if node is not None else ""), service.port


def wan_address(instance: CheckServiceNode) -> tuple[str, int]:
    """Best address from another datacenter.

    In this order: the service's ``wan`` tagged address, the service's address, the node's
    ``wan`` address, the node's address. A tagged address without a port has the service's.
    """
    service, node = instance.service, instance.node
    if service is None:
        return "", 0
    tagged = (service.tagged_addresses or {}).get(WAN, ServiceAddress())
    if tagged.address:
        return tagged.address, tagged.port or service.port
    if service.address or node is None:
        return service.address, service.port
    return (node.tagged_addresses or {}).get(WAN) or node.address, service.port
