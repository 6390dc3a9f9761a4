"""A connection that carries a WebSocket: two messages wait for the app, the rest in TCP.

A whole message in one frame is read and written by `websocket_frames`; all other frames by
`websockets`' protocol without I/O (`ServerProtocol`). Compression is off: pictures do not shrink,
and deflate would make a message 24 to 44 times as expensive.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

from starlette.types import Message
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State

from hybrid_detect.exchange.wire import ErrorReply
from hybrid_detect.server.connections import (
    MAX_HELD_BYTES,
    STOPPING,
    Context,
    Outflow,
    Timer,
    has_hung_up,
)
from hybrid_detect.server.direct_messages import DIRECT
from hybrid_detect.server.http1 import RequestHead
from hybrid_detect.server.lingering import linger
from hybrid_detect.server.replies import BUG, error_reply, json_answer
from hybrid_detect.server.unread_bytes import can_drop_unread, drop_unread
from hybrid_detect.server.websocket_frames import FrameUnderWay, message_frame, parser_of
from hybrid_detect.server.websocket_handshake import answer_to, completed, scope_of
from hybrid_detect.server.websocket_heartbeat import Heartbeat
from hybrid_detect.server.websocket_messages import Inbox, Outbox

__all__ = ["MAX_FRAGMENTS", "WebSocketConnection"]

logger = logging.getLogger("hybrid_detect.server")

MAX_FRAGMENTS = 1024
"""Pieces of a message: the largest in pieces of 4 KiB. Empty ones cost their sender nothing."""

MAX_WAITING = 2
"""Messages that wait for the app. With one, a close frame right behind it would not be seen."""

CLOSE_S = 2.0
"""For a peer to answer a close frame. Closing before could cost it the reason."""

FORBIDDEN = error_reply(0, 403, "refused", "there is no WebSocket for you here")


class WebSocketConnection(asyncio.BufferedProtocol):
    """Takes a connection over from HTTP once the head that asks for a WebSocket has been read."""

    def __init__(
        self,
        context: Context,
        transport: asyncio.Transport,
        head: RequestHead,
        addresses: dict[str, Any],
    ) -> None:
        self._context = context
        self._limits = context.limits
        self._transport = transport
        self._head = head
        self._frames = parser_of(max_bytes=context.max_message_bytes)
        self._patience = Timer()  # for what the peer sends
        self._outflow = Outflow(self._limits.answer_s, transport.abort)
        self._heartbeat = Heartbeat(
            self._frames.send_ping,
            self._flush,
            transport.abort,  # closing would wait for a peer that takes nothing either
            is_heard=lambda: not self._is_blocked,
            may_send=lambda: not self._outflow.is_blocked,
        )
        self._events = Inbox()
        self.serve = self._events.serve  # as a `DirectLink`
        self._accepted: Response | None = None  # until the app has agreed
        self._outbox = Outbox()
        self.is_open = self._is_ending = self._is_gone = False
        self._is_reading = True
        self._pieces: list[bytes] = []
        self._frame = FrameUnderWay(max_bytes=context.max_message_bytes)
        self._drops_unread = can_drop_unread(transport)
        self._scope = scope_of(head, addresses, is_gone=self._has_gone)
        self._scope[DIRECT] = self
        self._held = bytearray()

    def open(self, rest: bytes) -> None:
        """Check the handshake and run the app; `rest` came behind the head."""
        self._held += rest
        response = answer_to(self._head, self._frames)
        if isinstance(response, ErrorReply):
            self._refuse(response)
            return
        self._accepted = response
        self._patience.start(self._limits.head_s, self._transport.abort)
        self._context.run(self._run())

    # -- what asyncio calls ------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything; the app learns that its peer has gone."""
        for timer in (self._patience, self._outflow, self._heartbeat):
            timer.end()
        self._context.connections.discard(self)
        self._held.clear()
        self._pieces.clear()
        self._frame.forget()
        self._events.serve(None)
        self._hang_up(1006)
        self.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go, which nothing keeps."""
        early = self._context.early
        is_little_wanted = (self._frame.is_refused and self._drops_unread) or (
            not self._frame.left_bytes and early is not None and early.admission.is_pressed
        )
        return self._context.read_little if is_little_wanted else self._context.read

    def buffer_updated(self, nbytes: int) -> None:
        """Take what has been read, as far as the app follows."""
        data, begin, frame = self._context.read[:nbytes], 0, self._frame
        # What the app can take at once need not be held first: a picture behind its announcement.
        while not (self._held or self._is_blocked):
            is_amid = frame.left_bytes > 0
            if not is_amid and (found := frame.measure(data, begin, begins=self._is_between)):
                begin, message = found
                self._events.put(message)
            else:
                if not frame.left_bytes or self._transport.is_closing():
                    break
                piece = bytes(data[begin : begin + frame.left_bytes])
                begin += len(piece)
                self._parse(piece)
                self._control()  # what is complete is not waited for while more is taken
            if begin == nbytes:
                return  # with nothing held
        self._held += data[begin:]
        self._read()

    def pause_writing(self) -> None:
        """Wait for the peer to take what was written; until then its pings are not read either."""
        self._outflow.block()
        self._control()

    def resume_writing(self) -> None:
        """Go on."""
        self._outflow.unblock()
        self._read()

    # -- reading -----------------------------------------------------------------------------

    @property
    def _is_blocked(self) -> bool:
        """Whether it is the app, or what the peer has not taken, that is waited for."""
        return not self._is_ending and (
            not self.is_open or len(self._events.waiting) >= MAX_WAITING or self._outflow.is_blocked
        )

    @property
    def _is_between(self) -> bool:
        """Whether a message may begin with the next frame."""
        return not (self._pieces or self._is_ending or self._is_gone)

    def _read(self) -> None:
        """Parse as far as the app follows; a frame at a time, so that it is no more than that."""
        while self._held and not self._is_blocked and not self._transport.is_closing():
            if not self._parse_a_frame():
                break
        self._control()

    def _parse_a_frame(self) -> bool:
        """Parse what there is of the next frame; returns whether there is anything of it."""
        frame = self._frame
        is_amid = frame.left_bytes > 0
        if not is_amid and (found := frame.measure(self._held, begins=self._is_between)):
            end, message = found
            del self._held[:end]
            self._take_message(message)
            return True
        if not frame.left_bytes:
            return False  # its own head is not complete
        piece = bytes(self._held[: frame.left_bytes])
        del self._held[: len(piece)]
        self._parse(piece)
        return True

    def _parse(self, piece: bytes) -> None:
        frame = self._frame
        if frame.is_refused:
            self._drop(len(piece))
            return
        frame.left_bytes -= len(piece)
        if frame.pieces is not None:
            frame.pieces.append(piece)
            if not frame.left_bytes:
                self._take_message(frame.message())
            elif len(frame.pieces) == 1 and not self._is_ending:
                self._weigh(piece)
            return
        self._frames.receive_data(piece)
        for event in self._frames.events_received():
            if isinstance(event, Frame):
                self._take(event)
        self._flush()
        if (said := self._frames.close_rcvd) is not None:
            self._hang_up(said.code)
            self._close()
        elif not (self._is_ending or self._frames.state is State.OPEN):
            self._is_ending = True  # the peer broke the protocol; a frame of ours says so
            self._patience.start(0.0, partial(linger, self._context, self._transport, self))

    def _weigh(self, piece: bytes) -> None:
        """Tell of a message that would be refused once it had come, and drop the rest of it."""
        early = self._context.early
        if early is not None and (refused := early.refused_message(self._scope, piece)) is not None:
            self._frame.pieces = None
            self._take_message(refused)
            self._drop(0)

    def _drop(self, size: int) -> None:
        """Drop what is not wanted: `size` bytes that were read, and what waits behind them."""
        left = self._frame.left_bytes - size
        if left and self._drops_unread:
            left -= drop_unread(self._transport, left)
        self._frame.left_bytes, self._frame.is_refused = left, left > 0

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PONG:
            self._heartbeat.note(bytes(frame.data))
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT) and not self._is_ending:
            # No message of ours is text; as bytes it is answered like any other malformed one.
            self._pieces.append(bytes(frame.data))
            if frame.fin:
                pieces, self._pieces = self._pieces, []
                self._take_message(b"".join(pieces))
            elif len(self._pieces) > MAX_FRAGMENTS:
                self._fail()

    def _take_message(self, data: bytes) -> None:
        if not self._is_ending:
            if self._patience.is_running:
                self._patience.stop()  # the next one has a time of its own
            self._events.put(data)

    def _control(self) -> None:
        """Read while there is room, and give half a message its time while it is waited for."""
        wanted = self._is_ending or (
            len(self._held) < MAX_HELD_BYTES and not self._outflow.is_blocked
        )
        if wanted != self._is_reading and not self._transport.is_closing():
            self._is_reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
        if not self.is_open or self._is_ending:
            return
        is_amid = self._held or self._frame.left_bytes or self._pieces
        if is_amid and not self._is_blocked:
            if not self._patience.is_running:
                self._patience.start(self._limits.message_s, self._fail)
        elif self._patience.is_running:
            self._patience.stop()

    def _hang_up(self, code: int) -> None:
        if not self._is_gone:
            self._is_gone = True
            self._events.tell({"type": "websocket.disconnect", "code": code})

    def _has_gone(self) -> bool:
        return self._is_gone or has_hung_up(self._transport)

    # -- what the app calls ------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._context.app(self._scope, self._receive, self._send)
        except asyncio.CancelledError:  # the server stops and does not wait any longer
            self._end(1012, STOPPING)
        except Exception:
            logger.exception("a stream failed with a bug")
            self._end(1011, BUG)
        else:
            self._end(1012 if self._context.is_stopping else 1000, FORBIDDEN)
        finally:
            self._events.clear()

    async def _receive(self) -> Message:
        event = await self._events.next()
        self._read()
        return event

    async def _send(self, message: Message) -> None:
        if self._outflow.is_blocked:
            await self._outflow.wait()
        if self._is_gone or self._is_ending:
            if self.is_undecided:
                return  # the app does not expect it here, and is told when it receives
            msg = "the WebSocket is closed"
            raise OSError(msg)
        self._outbox.carry_out(message, self)

    def send(self, message: bytes) -> bool:
        """Send `message`, as a `DirectLink` does."""
        if not self.is_open or self._outflow.is_blocked or self._is_gone or self._is_ending:
            return False
        if not self._transport.is_closing():
            self._transport.write(message_frame(message))
        return True

    @property
    def is_undecided(self) -> bool:
        """Whether the app has neither accepted nor denied the WebSocket."""
        return self._accepted is not None

    def accept(self, message: Message) -> None:
        """Open the WebSocket."""
        assert self._accepted is not None  # noqa: S101 - only while undecided
        self._frames.send_response(completed(self._accepted, message))
        self._accepted = None
        self._flush()
        self.is_open = True
        self._patience.stop()
        self._heartbeat.start()
        self._read()

    # -- ending ------------------------------------------------------------------------------

    def stop(self) -> None:
        """Let what has been received be answered, take nothing more, and close."""
        if self.is_open and not self._is_ending:
            self._events.serve(None)  # who may not be able to answer at once
            while self._held and self._frames.state is State.OPEN and self._parse_a_frame():
                pass
            self._events.tell({"type": "websocket.disconnect", "code": 1012})
        elif not self._is_ending:
            self._refuse(STOPPING)

    def give_up(self) -> None:
        """Close, whether or not everything has been answered."""
        self._end(1012, STOPPING)
        self._close()

    def _fail(self) -> None:
        """End what is too slow or in too many pieces: a policy was broken (RFC 6455, 7.4.1)."""
        self._end(1008, FORBIDDEN, "too slow or in too many pieces")
        self._hang_up(1008)

    def _refuse(self, error: ErrorReply) -> None:
        self._context.refused(error)
        self.deny(json_answer(error))
        self._hang_up(1006)

    def deny(self, answer: bytes) -> None:
        """Answer in HTTP what opens no WebSocket."""
        self._accepted = None
        if not (self._is_ending or self._transport.is_closing()):
            self._transport.write(answer)
        self._close()

    def end(self, code: int, reason: str = "") -> None:
        """Say goodbye, as the app wants it."""
        self._end(code, FORBIDDEN, reason)

    def _end(self, code: int, refusal: ErrorReply, reason: str = "") -> None:
        """Say goodbye: with a close frame, or, before the WebSocket is open, with `refusal`."""
        if self._is_ending or self._transport.is_closing():
            return
        if not self.is_open:
            self._refuse(refusal)
            return
        self._is_ending, self._pieces = True, []
        if self._frames.state is State.OPEN:
            self._frames.send_close(code, reason)
            self._flush()
        self._heartbeat.stop()
        self._patience.start(CLOSE_S, self._close)
        self._read()  # the peer's own close frame ends the wait

    def _close(self) -> None:
        """Close, at the latest when the peer has had its time to take what was written."""
        self._is_ending = True
        self._outflow.limit()
        self._transport.close()

    def _flush(self) -> None:
        data = b"".join(self._frames.data_to_send())
        if data and not self._transport.is_closing():
            self._transport.write(data)
