"""What commands write to standard error, beside the device that they took."""

from types import SimpleNamespace


def without_device(text):
    """Standard error, text or bytes, without the line of the device that --device auto took."""
    start, nothing = ("device: ", "") if isinstance(text, str) else (b"device: ", b"")
    return nothing.join(line for line in text.splitlines(keepends=True) if not line.startswith(start))


def said(code, capsys, **more):
    """What came of a command in this process: code, out, err without the device, the whole of it, and more."""
    out, whole = capsys.readouterr()
    return SimpleNamespace(code=code, out=out, err=without_device(whole), whole=whole, **more)
