"""Hold a port to one of the machine's addresses where the program that listens cannot.

TensorFlow's server listens on every address of a machine, whichever is named.
On Linux a listening socket may be given a filter, without any rights, that
drops what was sent to another address before it is a connection; those who ask
there get no answer, as from a firewall.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import socket
import stat
import struct
import sys
from pathlib import Path

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# From <linux/filter.h>: a packet's network header begins here, wherever the
# filter itself begins to read.
_NETWORK_HEADER = -0x100000
_SO_ATTACH_FILTER = 26
_LOAD_BYTE, _LOAD_WORD, _AND, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x20, 0x54, 0x15, 0x06
_VERSION_BITS = 0xF0
_DESTINATION = {4: 16, 6: 24}  # bytes into the header of each version of IP
_ACCEPT, _DROP = 0xFFFFFFFF, 0


def own_address(host: str) -> Address | None:
    """Tell whether a port named by this host can be held to an address.

    Args:
        host: As typed.

    Returns:
        The address, if it is written out, is one of this machine's, and not
        the one that stands for all; None for names, whose address may differ
        from machine to machine, and on systems other than Linux.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.is_unspecified or (address.version == 6 and address.scope_id):
        return None
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return None
    return address


def hold(listener: socket.socket, address: Address) -> None:
    """Let a listening socket answer at one address alone.

    Connections that it has accepted stay.

    Args:
        listener: It may be of IPv6 and take IPv4 as well.
        address: One of this machine's.

    Raises:
        OSError: If the system refuses.
    """
    program = _filter(address)
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: how many instructions of 8 bytes, and where they are.
    about = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, about)


def _filter(address: Address) -> bytes:
    """Assemble: the version is that of the address, and the destination is the address."""
    steps = [
        (_LOAD_BYTE, _NETWORK_HEADER),
        (_AND, _VERSION_BITS),
        (_JUMP_IF_EQUAL, address.version << 4),
    ]
    for n, word in enumerate(struct.unpack(f"!{len(address.packed) // 4}I", address.packed)):
        steps.append((_LOAD_WORD, _NETWORK_HEADER + _DESTINATION[address.version] + 4 * n))
        steps.append((_JUMP_IF_EQUAL, word))
    steps += [(_RETURN, _ACCEPT), (_RETURN, _DROP)]
    program = b""
    for n, (code, operand) in enumerate(steps):
        # How many instructions to skip if it is not so: to the last.
        otherwise = len(steps) - 2 - n if code == _JUMP_IF_EQUAL else 0
        program += struct.pack("=HBBI", code, 0, otherwise, operand & 0xFFFFFFFF)
    return program


def hold_port(port: int, address: Address) -> int:
    """Let all sockets of this process that listen on a port answer at one address alone.

    Args:
        port: The port.
        address: One of this machine's.

    Returns:
        How many do; those of which the system refuses it are not among them.
    """
    n_held = 0
    for entry in Path("/proc/self/fd").iterdir():
        number = int(entry.name)
        with contextlib.suppress(OSError):  # closed meanwhile, or refused
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as found:
                listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                is_ip = found.family in (socket.AF_INET, socket.AF_INET6)
                if is_ip and listens and found.getsockname()[1] == port:
                    hold(found, address)
                    n_held += 1
    return n_held
