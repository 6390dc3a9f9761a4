"""The page that shows a session, in a browser: skipped where there is no Chromium."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from hybrid_detect.server.config import ServerConfig

from ..waiting import LIMIT_S
from .loopback import jpeg, served

pytestmark = pytest.mark.anyio

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
TOKEN = "a-token-of-the-page"


class Page:
    """A page of a browser, spoken to in Chromium's DevTools protocol."""

    def __init__(self, link: ClientConnection) -> None:
        self._link = link
        self._calls = 0
        self.complaints: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        await self._link.send(json.dumps({"id": self._calls, "method": method, "params": params}))
        while True:
            message = json.loads(await self._link.recv())
            if message.get("method") == "Log.entryAdded":
                entry = message["params"]["entry"]
                if entry["level"] == "error":
                    self.complaints.append(entry["text"])
            if message.get("id") == self._calls:
                assert "error" not in message, message
                return message.get("result", {})  # type: ignore[no-any-return]

    async def run(self, script: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, script: str) -> None:
        while not await self.run(script):
            await asyncio.sleep(0.02)


@asynccontextmanager
async def browser(url: str, profile: Path) -> AsyncIterator[Page]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        f"--user-data-dir={profile}",
        "--remote-debugging-port=0",
    ]
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, *options, url, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            assert process.stderr is not None
            async for line in process.stderr:
                if found := re.search(rb"ws://([^/]+)/", line):
                    break
            else:
                pytest.skip("Chromium does not start here")
            async with httpx.AsyncClient(timeout=LIMIT_S) as client:
                pages = (await client.get(f"http://{found[1].decode()}/json")).json()
            (target,) = (each for each in pages if each["type"] == "page")
            async with connect(target["webSocketDebuggerUrl"], max_size=None) as link:
                page = Page(link)
                await page.call("Log.enable")
                await page.until("document.readyState === 'complete' && !!document.forms.length")
                yield page
    finally:
        process.kill()
        await process.wait()


async def test_the_page_shows_boxes_and_numbers_as_they_come(tmp_path: Path) -> None:
    config = ServerConfig(rate_per_s=0, auth_token=TOKEN)
    async with served(config) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with browser(f"{url}/v1/live", tmp_path) as page, httpx.AsyncClient() as client:

            async def send() -> None:
                headers = {"Authorization": f"Bearer {TOKEN}", "X-Session-ID": "a visit/1"}
                answer = await client.post(f"{url}/v1/detect", content=jpeg(), headers=headers)
                answer.raise_for_status()

            async def watch(key: str) -> None:
                await page.run(
                    f"element('session').value = 'a visit/1'; element('key').value = '{key}';"
                    "element('form').requestSubmit()"
                )

            await watch("wrong")
            await page.until("element('status').textContent.includes('Authorization')")
            await watch(TOKEN)
            await page.until("element('status').textContent.startsWith('Watching')")
            await send()
            await page.until("element('number').textContent === '1'")
            assert await page.run("element('faces').textContent") == "1"
            assert await page.run("element('score').textContent") == "0.90"
            assert (
                await page.run("[element('view').width, element('view').height].join()") == "64,48"
            )
            # The box's left edge, at x 1 between y 2 and 40, is drawn; its middle is not.
            drawn = "element('view').getContext('2d').getImageData({x}, 20, 1, 1).data[3]"
            assert await page.run(drawn.format(x=1)) > 0
            assert await page.run(drawn.format(x=15)) == 0
            await send()
            await page.until("element('number').textContent === '2'")
            assert await page.run("element('missed').textContent") == "0"
            server.server._app.state.live.close()
            await page.until("element('status').textContent.startsWith('Ended')")
            # The refused credential is all that the browser has to say: no policy was broken.
            assert [text for text in page.complaints if "401" not in text] == []
