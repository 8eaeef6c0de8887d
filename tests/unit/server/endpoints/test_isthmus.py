"""What isthmus servers tell each other."""

from isthmus.model.diagnosis import Clock, FederationReport
from isthmus.model.methods import METHODS
from isthmus.model.query import DatacenterRequest
from isthmus.wire.msgpack import decode, encode


def test_reports_travel_between_servers() -> None:
    report = FederationReport(datacenter="dc1", leader=True)
    assert decode(FederationReport, encode(report)) == report
    assert decode(Clock, encode(Clock())) == Clock()


def test_methods_are_reads_of_a_datacenter() -> None:
    for name in ("Isthmus.Clock", "Isthmus.Report"):
        method = METHODS[name]
        assert (method.request, method.read, method.local) == (DatacenterRequest, True, False)
