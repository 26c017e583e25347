"""The article's sign-up command."""

import asyncio
import shutil

import httpx

__all__ = ["curl"]

LIMIT_S = 10.0


async def curl(url: str, body: str, http: httpx.AsyncClient) -> tuple[int, str]:
    """The article's command with the real curl; where there is none, the same request."""
    if shutil.which("curl") is None:
        answer = await http.post(url, content=body, headers={"Content-Type": "application/json"})
        return answer.status_code, answer.text
    words = [
        "curl",
        "-s",
        "-w",
        "\n%{http_code}",
        "-X",
        "POST",
        "-H",
        "Content-Type: application/json",
        "-d",
        body,
        url,
    ]
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(LIMIT_S):
        output, _ = await process.communicate()
    text, _, status = output.decode().rpartition("\n")
    return int(status or 0), text
