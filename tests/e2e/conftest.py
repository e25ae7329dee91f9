from tests.crashes.conftest import make_stream, pump_bundle
from tests.support.supervised import run_stream

__all__ = ["make_stream", "pump_bundle", "run_stream"]
