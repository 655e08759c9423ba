"""What obstore raises, said in sentences of ours. Knows errors and URLs, no stores."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from tracestore._extras import extra
from tracestore.errors import StoreError

with extra("objects"):
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

__all__ = ["cause_of", "explained", "failed", "is_definite", "no_condition", "refused"]

# obstore has one class for all of these; only the text tells them apart
_NO_CONDITION = re.compile(r"status code: 501\b|<Code>NotImplemented<")
_REFUSED = re.compile(r"status code: [34](?!08|09|29)\d\d\b")
_NO_BUCKET = "<Code>NoSuchBucket<"


@contextmanager
def explained(url: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn an error of obstore into one of ours, ``but`` for some."""
    try:
        yield
    except FileNotFoundError as error:
        if _NO_BUCKET in str(error):
            message = f"The bucket of {url} does not exist. Correct the URL, or make the bucket."
            raise StoreError(message, url=url) from error
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from error
    except NotImplementedError as error:
        raise no_condition(url) from error
    except (BaseError, ValueError) as error:
        if isinstance(error, but):
            raise
        raise failed(url, error) from error


def is_definite(error: Exception) -> bool:
    """Whether the store said no, so that repeating does not help."""
    refusals = (PermissionDeniedError, UnauthenticatedError)
    return isinstance(error, refusals) or any(word.search(str(error)) for word in (_NO_CONDITION, _REFUSED))


def refused(url: str, error: Exception) -> StoreError:
    """Say why the store refused to create an object."""
    return no_condition(url) if _NO_CONDITION.search(str(error)) else failed(url, error)


def failed(url: str, error: Exception) -> StoreError:
    """Say that a request failed, and why."""
    is_about_keys = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    advice = "the access keys and their rights" if is_about_keys else "the endpoint, the options and the network"
    return StoreError(f"The object store does not serve {url}: {cause_of(error)}. Check {advice}.", url=url)


def no_condition(url: str) -> StoreError:
    """Say that a store cannot create an object only if it is absent."""
    message = (
        f"The object store of {url} has no conditional creation (If-None-Match), so two writers could overwrite each "
        "other, and tracestore refuses it. Use a store that has it, or a path."
    )
    return StoreError(message, url=url)


def cause_of(error: Exception | None) -> str:
    """Return the first line, without the document that the store sent, but with the code in it."""
    text = str(error)
    code = re.search(r"<Code>(\w+)<", text)
    line = text.partition("\n")[0].partition(": <")[0].rstrip(".: ")
    return f"{line} ({code[1]})" if code else line
