"""From an HTTP request to a transcript: receive the form, decode its file, and wait for the engine."""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from fastapi import HTTPException, Request
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect

from ..data.audio import Recording, read_recording
from ..decoding.hotwords import Hotword
from ..decoding.transcript import Transcript
from .clients import Clients, client_name
from .engine import ClosedError, Engine, QueueFullError, TooSlowError
from .hotwords import read_hotwords
from .options import ServerOptions
from .prometheus import ServerMetrics

DISCONNECT_CHECK_S = 0.5  # seconds between two checks whether a waiting client is still connected

Fields = dict[str, list[str]]  # fields of a form, without its files


def first_value(fields: Fields, name: str, default: str) -> str:
    """Return the first value of a field that is not empty, or the default."""
    return next((value for value in fields.get(name, ()) if value), default)


class TranscriptionTimeoutError(RuntimeError):
    """A recording was not decoded and transcribed within `seconds`."""

    retry_after = 10.0  # seconds

    def __init__(self, seconds: float):
        super().__init__(f"not transcribed within {seconds:g} s")


@dataclass
class Transcription:
    """A transcribed request.

    Attributes:
        duration: Duration of the recording in seconds.
        fields: Fields of the form beside the file.
        warnings: What is damaged in the file, unusual ways in which it had to be read, and hotwords that are left out.
    """

    transcript: Transcript
    duration: float
    fields: Fields
    warnings: list[str]


class TranscriptionService:
    """Transcribes the recordings of HTTP requests within the limits of `options`."""

    def __init__(self, engine: Engine, options: ServerOptions):
        threads = max(2, os.cpu_count() or 1)
        self.engine, self.options = engine, options
        self.metrics = ServerMetrics(engine)
        self.decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        share = engine.options.max_client_share
        self.clients = Clients(max_connections=options.max_connections, decoders=threads, share=share)

    async def close(self) -> None:
        """Finish all accepted requests, then stop the engine and the decoding threads."""
        await asyncio.to_thread(self.engine.close)
        self.decoders.shutdown(cancel_futures=True)

    async def transcribe(
        self,
        request: Request,
        file_field: str,
        *,
        check: Callable[[Fields], None] = lambda fields: None,
        find_hotwords: Callable[[Fields], str] = lambda fields: first_value(fields, "hotwords", ""),
    ) -> Transcription:
        """Transcribe the file in the form field `file_field` of a request.

        Args:
            check: Raises HTTPException for fields that are refused, before the file is decoded.
            find_hotwords: Returns the hotwords in the fields.

        Raises:
            HTTPException: The form cannot be used, or the client has disconnected.
            AudioError, QueueFullError, TooSlowError, ClosedError, TooManyConnectionsError, TranscriptionTimeoutError:
                `errors.py` has their answers.
        """
        client, limit = client_name(request), self.options.transcription_timeout_s
        if not self.engine.is_alive:  # refuse before the upload
            raise ClosedError("the server is stopping: it takes no more requests")
        with self.clients.connection(client) as connection:
            form = await self._receive(request)
            try:
                async with asyncio.timeout(limit) as timer:
                    try:
                        fields = {key: [v for v in form.getlist(key) if isinstance(v, str)] for key in form}
                        check(fields)
                        hotwords, remarks = await self._read_hotwords(find_hotwords(fields))
                        recording = await self._decode(form, file_field, connection.decoding)
                    finally:
                        await form.close()
                    duration = len(recording.waveform) / self.engine.sampling_rate
                    warnings = [*recording.damage, *recording.remarks, *remarks]
                    options = {"client": client, "deadline": timer.when(), "hotwords": hotwords}
                    future = self._submit(recording.waveform, **options)
                    del recording  # the engine frees the samples when it has computed them
                    transcript = await self._wait(request, asyncio.wrap_future(future))
            except TimeoutError:
                raise TranscriptionTimeoutError(limit) from None
        self.metrics.audio_seconds.inc(duration)
        return Transcription(transcript, duration, fields, warnings)

    async def _receive(self, request: Request) -> FormData:
        """Return the form; until it is closed, large files are on disk."""
        limit = self.options.upload_timeout_s
        try:
            async with asyncio.timeout(limit):
                return await request.form(max_files=1, max_fields=50)
        except TimeoutError:
            raise HTTPException(408, f"the upload took longer than {limit:g} s") from None
        except ClientDisconnect:
            raise HTTPException(400, "the client disconnected") from None

    async def _read_hotwords(self, value: str) -> tuple[list[Hotword] | None, Sequence[str]]:
        """Return the hotwords of a field, None if it is empty, and remarks on them."""
        if not value.strip():
            return None, ()
        return await asyncio.get_running_loop().run_in_executor(
            self.decoders, read_hotwords, value, self.engine.recognizer
        )

    async def _decode(self, form: FormData, file_field: str, semaphore: asyncio.Semaphore) -> Recording:
        """Decode the file in a thread; `semaphore` limits how many files of a client are in memory at a time."""
        upload = form.get(file_field)
        if not isinstance(upload, UploadFile):
            raise HTTPException(422, f"send the recording as a file in the multipart form field {file_field!r}")

        def read() -> Recording:
            data, limit = upload.file.read(), self.options.max_audio_seconds
            return read_recording(data, sampling_rate=self.engine.sampling_rate, max_seconds=limit)

        async with semaphore:
            return await asyncio.get_running_loop().run_in_executor(self.decoders, read)

    def _submit(
        self, waveform: np.ndarray, *, client: str, deadline: float, hotwords: Sequence[Hotword] | None
    ) -> Future[Transcript]:
        """Queue a waveform (samples,) whose transcript must be ready at `deadline`, on the event loop's clock."""
        left = deadline - asyncio.get_running_loop().time()
        try:
            return self.engine.submit(waveform, client=client, time_limit=left, hotwords=hotwords)
        except TooSlowError as error:
            if left > self.options.transcription_timeout_s / 2:
                raise
            raise QueueFullError(10.0) from error  # decoding had to wait too long; the recording is not too long

    async def _wait(self, request: Request, future: asyncio.Future[Transcript]) -> Transcript:
        """Return the transcript. If the client disconnects or the time is over, the engine drops the recording."""
        try:
            while not (await asyncio.wait({future}, timeout=DISCONNECT_CHECK_S))[0]:
                if await request.is_disconnected():
                    raise HTTPException(400, "the client disconnected")
            return future.result()
        finally:
            future.cancel()
