from __future__ import annotations

import pytest
from prefopt_code.sandbox import Sandbox, SandboxError


@pytest.fixture(scope="session")
def allowed() -> None:
    """That the system gives what the sandbox takes. An ordinary error of the sandbox is no reason to skip."""
    try:
        Sandbox().check()
    except SandboxError as error:
        if "the system refuses" not in str(error):
            raise
        pytest.skip(str(error))
