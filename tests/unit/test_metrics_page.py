"""What is read off a member's metrics page, and that an odd one only tells nothing."""

import pytest
from aiohttp import web

from etcd_steward.engine.maintenance.metrics_page import MemberMetrics, parse, read_metrics

WHOSE = 'etcd_server_id{server_id="8e9e05c52164694d"} 1\n'


def test_a_page_says_whose_it_is_and_what_is_at_work() -> None:
    page = parse(
        "# TYPE etcd_server_id gauge\n"
        + WHOSE
        + "# TYPE etcd_server_quota_backend_bytes gauge\n"
        + "etcd_server_quota_backend_bytes 2.147483648e+09\n"
        + "etcd_disk_defrag_inflight 1\n"
    )
    assert page == MemberMetrics(
        0x8E9E05C52164694D, 1 << 31, defragmenting=True, applying_snapshot=False
    )


def test_a_quota_that_is_switched_off_is_none() -> None:
    page = parse(WHOSE + "etcd_server_quota_backend_bytes -1\n")
    assert page is not None
    assert page.quota_bytes is None


def test_the_words_are_few_however_long_the_line_is() -> None:
    with pytest.raises(ValueError, match="can't be read") as refused:
        parse("x{" + "y" * 100_000 + "} 1\n")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "text",
    [
        "",
        "up 1\n",
        "etcd_server_id 1\n",
        'etcd_server_id{server="8e9e05c52164694d"} 1\n',
        'etcd_server_id{server_id="8e9e05c52164694d"} 0\n',
    ],
)
def test_a_page_that_does_not_say_whose_it_is_is_nobodys(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    "text",
    [
        'etcd_server_id{server_id="etcd0"} 1\n',
        'etcd_server_id{server_id=""} 1\n',
        'etcd_server_id{server_id="-1"} 1\n',
        'etcd_server_id{server_id="18e9e05c52164694d"} 1\n',
        WHOSE + "etcd_server_quota_backend_bytes +Inf\n",
        WHOSE + "etcd_server_quota_backend_bytes -Inf\n",
        WHOSE + "etcd_server_quota_backend_bytes NaN\n",
        WHOSE + "etcd_server_quota_backend_bytes 1e300\n",
        WHOSE + f"etcd_server_quota_backend_bytes {'9' * 400}\n",
        WHOSE + "# TYPE x\n",
        # What the parser itself stumbles over: LookupError, ArithmeticError.
        WHOSE + 'x{a="1", ="2"} 1\n',
        WHOSE + f"x 1 {'9' * 400}\n",
        "<html><body>Not found</body></html>\n",
    ],
)
def test_an_odd_page_is_refused_with_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)


async def test_an_odd_page_leaves_the_others_be() -> None:
    pages = {
        "good": WHOSE,
        "nobody": "etcd_server_id 1\n",
        "endless": WHOSE + "etcd_server_quota_backend_bytes +Inf\n",
        "odd": WHOSE + 'x{a="1", ="2"} 1\n',
        "short": "# TYPE x\n",
    }

    async def page(request: web.Request) -> web.Response:
        return web.Response(text=pages[request.match_info["whose"]])

    app = web.Application()
    app.router.add_get("/{whose}/metrics", page)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        told, failed = await read_metrics([f"http://{host}:{port}/{name}" for name in pages])
    finally:
        await runner.cleanup()
    assert list(told) == [0x8E9E05C52164694D]
    words = [str(error) for error in failed]
    assert len(words) == 4
    assert "is not an etcd member's metrics page" in words[0]
    assert all("tells no metrics: " in one for one in words[1:])
    assert not any("in time" in one for one in words)
