"""AWS credentials: requests signed anew each time, by keys that renew and a clock that learns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hybrid_detect.backends.remote.aws_keys import AwsKeys, AwsKeySource, checked_keys, keys_found
from hybrid_detect.backends.remote.aws_signing import signed
from hybrid_detect.backends.remote.protocol import HttpRequest
from hybrid_detect.backends.remote.renewal import Renewed
from hybrid_detect.errors import BackendResponseError, Refusal

__all__ = ["AwsCredentials"]


class AwsCredentials:
    """Signs requests with Signature Version 4.

    A device whose clock is minutes off is refused once: from the answer's ``Date`` it learns how
    much, signs the request again, and all further ones by the server's clock.

    Args:
        keys: The keys, or a function that gives them; `None` for those of the environment, or else
            of a profile, which are read in a thread, and again when they have ended.
        region: The region in whose name requests are signed.
        service: The service's signing name.
        profile: The profile to read; `None` for the usual one. Not used with `keys`.

    Raises:
        ConfigurationError: If `keys` is something else.
    """

    def __init__(
        self,
        keys: AwsKeys | AwsKeySource | None = None,
        *,
        region: str,
        service: str = "rekognition",
        profile: str | None = None,
    ) -> None:
        given: AwsKeys | Callable[[], object] = (
            partial(keys_found, profile) if keys is None else keys
        )
        self._keys = Renewed(
            given, name="AWS keys", read=checked_keys, ends_at_s=lambda found: found.ends_at_s
        )
        self._region = region
        self._service = service
        self._ahead_s = 0.0
        """How much later the server's clock is than this device's."""
        self._signed_at_s = 0.0

    async def prepare(self, *, now_s: float) -> None:
        """As in `Credentials`."""
        await self._keys.prepare(now_s=now_s + self._ahead_s)

    def apply(self, request: HttpRequest, *, now_s: float) -> HttpRequest:
        """As in `Credentials`."""
        keys = self._keys.current()
        self._signed_at_s = now_s
        return signed(
            request,
            access_key_id=keys.access_key_id,
            secret_access_key=keys.secret_access_key,
            session_token=keys.session_token,
            region=self._region,
            service=self._service,
            now_s=now_s + self._ahead_s,
        )

    def on_refused(self, error: BackendResponseError) -> bool:
        """As in `Credentials`."""
        if error.refusal is Refusal.CLOCK and error.server_time_s is not None:
            # What lies between, the upload, is seconds; AWS allows for five minutes.
            self._ahead_s = error.server_time_s - self._signed_at_s
            return True
        if error.refusal is Refusal.FORBIDDEN:
            # Not sent again with the same keys; they may have been replaced by the next time.
            self._keys.forget()
        return error.refusal is Refusal.UNAUTHENTICATED and self._keys.forget()
