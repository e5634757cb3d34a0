"""``headwater.backend.asgi:app``: the application with settings from the environment.

For ``headwater check`` and other ASGI servers. Run ``headwater migrate`` first.
"""

from headwater.backend.app import create_app
from headwater.backend.settings import Settings

__all__ = ["app"]

app = create_app(Settings())
