"""A scripted conversation of slixmpp clients with a running server.

Arguments: JSON with host, port, proxy_port, domain, ca, password. One JSON line on standard output for each step that has
passed ({"step": name}); {"do": "cut"} asks the test to cut the proxy's connections, which it answers by a line. The first
failure ends the script with a traceback. Nothing sleeps: every wait is for an event, with a deadline.
"""

import asyncio
import json
import sys

import slixmpp
from slixmpp.exceptions import IqError

ARGS = json.loads(sys.argv[1])
DOMAIN = ARGS["domain"]
DEADLINE = 20


def tell(**line):
    print(json.dumps(line), flush=True)


class Client(slixmpp.ClientXMPP):
    """A client that remembers what it saw, so that a test can wait for it."""

    EVENTS = [
        "session_start", "session_resumed", "sm_enabled", "sm_failed", "register", "failed_auth", "disconnected", "message",
        "message_error", "carbon_received", "carbon_sent", "presence_available", "presence_away", "presence_dnd",
        "presence_unavailable", "presence_subscribe", "presence_subscribed", "presence_unsubscribed", "roster_update", "blocked",
        "unblocked",
    ]

    def __init__(self, user, resource, register=False, port=None):
        super().__init__(f"{user}@{DOMAIN}/{resource}", ARGS["password"])
        self.ca_certs = ARGS["ca"]
        self.port = port or ARGS["port"]
        self.seen = []
        self.changed = asyncio.Event()
        # What others ask is for the script to answer.
        self.auto_authorize = None
        self.auto_subscribe = False
        self.register_plugin("xep_0030")
        if register:
            self.register_plugin("xep_0077", {"force_registration": True})
        for plugin in ["xep_0191", "xep_0198", "xep_0199", "xep_0203", "xep_0280", "xep_0313", "xep_0359"]:
            self.register_plugin(plugin)
        for name in self.EVENTS:
            self.add_event_handler(name, lambda data, name=name: self.saw(name, data))
        if register:
            self.add_event_handler("register", self.fill_form)

    async def fill_form(self, _form):
        iq = self.Iq()
        iq["type"] = "set"
        iq["register"]["username"] = self.boundjid.user
        iq["register"]["password"] = self.password
        await iq.send()
        self.saw("registered", iq)

    def saw(self, name, data):
        self.seen.append((name, data))
        self.changed.set()

    async def wait(self, name, wanted=lambda data: True):
        """The first event of this name that is wanted; it is taken."""

        async def look():
            while True:
                for at, (seen, data) in enumerate(self.seen):
                    if seen == name and wanted(data):
                        del self.seen[at]
                        return data
                self.changed.clear()
                await self.changed.wait()

        try:
            return await asyncio.wait_for(look(), DEADLINE)
        except asyncio.TimeoutError:
            saw = "\n".join(f"  {n}: {d}" for n, d in self.seen)
            raise AssertionError(f"{self.boundjid} waited for {name}; it has seen\n{saw}") from None

    async def go(self, presence=True):
        self.connect(ARGS["host"], self.port)
        await self.wait("session_start")
        if presence:
            await self.get_roster()
            self.send_presence()
            await self.wait("presence_available", lambda p: p["from"] == self.boundjid)
        return self

    async def body(self, text):
        return await self.wait("message", lambda m: m["body"] == text)

    def say(self, to, text):
        self.send_message(mto=to, mbody=text, mtype="chat")

    async def item(self, contact):
        """A roster item as the client knows it; it asks with the version it has (XEP-0237), so the answer may be empty."""
        await self.get_roster()
        item = self.client_roster[contact]
        return item["name"], sorted(item["groups"]), item["subscription"]

    async def barrier(self):
        """What was sent to this session before is here then."""
        await self.plugin["xep_0199"].send_ping(DOMAIN)

    async def leave(self):
        self.disconnect()
        await self.wait("disconnected")


def jid(user):
    return f"{user}@{DOMAIN}"


async def conversation():
    # XEP-0077: in-band registration.
    for user in ["juliet", "romeo", "paris"]:
        newcomer = Client(user, "first", register=True)
        newcomer.connect(ARGS["host"], newcomer.port)
        await newcomer.wait("registered")
        await newcomer.wait("session_start")
        await newcomer.leave()
    tell(step="registration")

    juliet = Client("juliet", "balcony", port=ARGS["proxy_port"])
    romeo = Client("romeo", "orchard")
    paris = Client("paris", "hall")
    for client in [juliet, romeo, paris]:
        client.connect(ARGS["host"], client.port)
        await client.wait("session_start")
        await client.wait("sm_enabled")

    # RFC 6121 §2: rosters.
    for client in [juliet, romeo, paris]:
        await client.get_roster()
        client.send_presence()
        await client.wait("presence_available", lambda p: p["from"] == client.boundjid)
    await juliet.update_roster(jid("romeo"), name="Romeo", groups=["Lovers"])
    await juliet.wait("roster_update", lambda iq: any(str(i["jid"]) == jid("romeo") for i in iq["roster"]))
    assert await juliet.item(jid("romeo")) == ("Romeo", ["Lovers"], "none"), await juliet.item(jid("romeo"))
    tell(step="roster")

    # RFC 6121 §3: subscription both ways.
    for asking, asked in [(juliet, romeo), (romeo, juliet)]:
        asking.send_presence_subscription(pto=asked.boundjid.bare, ptype="subscribe")
        await asked.wait("presence_subscribe", lambda p: p["from"].bare == asking.boundjid.bare)
        asked.send_presence_subscription(pto=asking.boundjid.bare, ptype="subscribed")
        await asking.wait("presence_subscribed", lambda p: p["from"].bare == asked.boundjid.bare)
        await asking.wait("presence_available", lambda p: p["from"] == asked.boundjid)
    for client, other in [(juliet, romeo), (romeo, juliet)]:
        item = await client.item(other.boundjid.bare)
        assert item[2] == "both", item
    tell(step="subscription")

    # RFC 6121 §4: presence.
    romeo.send_presence(pshow="away", pstatus="in the orchard")
    seen = await juliet.wait("presence_away", lambda p: p["from"] == romeo.boundjid)
    assert seen["status"] == "in the orchard", seen
    romeo.send_presence()
    await juliet.wait("presence_available", lambda p: p["from"] == romeo.boundjid)
    tell(step="presence")

    # RFC 6121 §5: messages both ways.
    said = []
    for n in range(3):
        for speaker, hearer in [(juliet, romeo), (romeo, juliet)]:
            text = f"{speaker.boundjid.user} {n} <&> é"
            said.append(text)
            speaker.say(hearer.boundjid.bare, text)
            heard = await hearer.body(text)
            assert heard["from"] == speaker.boundjid, heard
    tell(step="messages")

    # XEP-0160, XEP-0203: offline.
    await romeo.leave()
    await juliet.wait("presence_unavailable", lambda p: p["from"].bare == jid("romeo"))
    texts = [f"while romeo is away {n}" for n in range(3)]
    for text in texts:
        said.append(text)
        juliet.say(jid("romeo"), text)
    await juliet.barrier()
    romeo = await Client("romeo", "orchard").go()
    for text in texts:
        heard = await romeo.wait("message")
        assert heard["body"] == text, heard
        assert heard["delay"]["stamp"], heard
    tell(step="offline")

    # XEP-0313: the archive, page by page.
    for client, other in [(juliet, "romeo"), (romeo, "juliet")]:
        rows = [
            row["mam_result"]["forwarded"]["stanza"]["body"]
            async for row in client.plugin["xep_0313"].iterate(with_jid=slixmpp.JID(jid(other)), rsm={"max": 4})
        ]
        assert rows == said, rows
    tell(step="archive")

    # XEP-0280: carbons.
    chamber = await Client("juliet", "chamber").go()
    # A client without a roster of its own is given the whole of it.
    assert await chamber.item(jid("romeo")) == ("Romeo", ["Lovers"], "both"), await chamber.item(jid("romeo"))
    await chamber.plugin["xep_0280"].enable()
    romeo.say(juliet.boundjid.full, "for the balcony")
    await juliet.body("for the balcony")
    carbon = await chamber.wait("carbon_received", lambda c: c["carbon_received"]["body"] == "for the balcony")
    assert carbon["from"].bare == jid("juliet"), carbon
    juliet.say(jid("romeo"), "from the balcony")
    await romeo.body("from the balcony")
    await chamber.wait("carbon_sent", lambda c: c["carbon_sent"]["body"] == "from the balcony")
    await chamber.leave()
    tell(step="carbons")

    # XEP-0191: blocking.
    paris.say(juliet.boundjid.full, "before")
    await juliet.body("before")
    await juliet.plugin["xep_0191"].block([slixmpp.JID(jid("paris"))])
    assert {str(j) for j in await juliet.plugin["xep_0191"].get_blocked_jids()} == {jid("paris")}
    paris.say(jid("juliet"), "blocked")
    error = await paris.wait("message_error")
    assert error["error"]["condition"] == "service-unavailable", error
    await juliet.plugin["xep_0191"].unblock([slixmpp.JID(jid("paris"))])
    paris.say(juliet.boundjid.full, "after")
    await juliet.body("after")
    assert not any(name == "message" and data["body"] == "blocked" for name, data in juliet.seen), juliet.seen
    tell(step="blocking")

    # XEP-0198: resumption after a cut connection.
    juliet.seen.clear()
    bound = juliet.boundjid.full
    tell(do="cut")
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await juliet.wait("disconnected")
    for n in range(3):
        romeo.say(jid("juliet"), f"in the tunnel {n}")
    await romeo.barrier()
    juliet.connect(ARGS["host"], juliet.port)
    await juliet.wait("session_resumed")
    for n in range(3):
        heard = await juliet.wait("message")
        assert heard["body"] == f"in the tunnel {n}", heard
    assert juliet.boundjid.full == bound
    juliet.say(jid("romeo"), "out of the tunnel")
    await romeo.body("out of the tunnel")
    # Nobody saw her go: the session was there all the time.
    assert not any(name == "presence_unavailable" and data["from"] == bound for name, data in romeo.seen), romeo.seen
    tell(step="resumption")

    for client in [juliet, romeo, paris]:
        await client.leave()
    try:
        stranger = Client("juliet", "thief")
        stranger.password = "wrong"
        stranger.credentials["password"] = "wrong"
        stranger.connect(ARGS["host"], stranger.port)
        await stranger.wait("failed_auth")
        await stranger.leave()
    except IqError as error:
        raise AssertionError("a stranger was let in far enough to ask") from error
    tell(step="refusal")


if __name__ == "__main__":
    asyncio.run(conversation())
