"""What can go wrong, from the most special to the most general."""

from __future__ import annotations

import wsmini


def describe(url: str) -> str:
    try:
        with wsmini.connect(url) as ws:
            message = ws.recv(timeout=10)
    except wsmini.InvalidURI as error:
        return f"{error.uri}: {error.problem}"
    except wsmini.InvalidStatus as error:
        body: bytes = error.response.body
        return f"{error.response.status_code} {error.response.headers.get('Retry-After')} {body!r}"
    except wsmini.NegotiationError as error:
        return error.problem
    except wsmini.InvalidHeader as error:
        return f"{error.name}: {error.value}"
    except wsmini.InvalidHandshake as error:
        return str(error)
    except wsmini.ConnectionClosedOK as closed:
        return closed.reason
    except wsmini.ConnectionClosed as closed:
        code: int = closed.code
        by_peer = closed.rcvd is not None and closed.rcvd_then_sent
        return f"closed with {code} by {'them' if by_peer else 'us'}"
    except wsmini.WebSocketException as error:
        return str(error)
    except TimeoutError:
        return "too late"
    except OSError as error:
        return f"network: {error.errno}"
    return message if isinstance(message, str) else message.hex()
