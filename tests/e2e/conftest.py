from tests.crashes.conftest import make_stream, pump_bundle

__all__ = ["make_stream", "pump_bundle"]
