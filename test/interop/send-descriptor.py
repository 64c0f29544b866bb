"""Gives QEMU one end of a socket pair by its monitor (getfd, which needs SCM_RIGHTS), has it migrate
there, and becomes the program that has the other end as descriptor 3.

send-descriptor.py MONITOR PROGRAM [ARGUMENT]...
"""
import array
import json
import os
import socket
import sys

monitor, *command = sys.argv[1:]
ours, theirs = socket.socketpair()
qmp = socket.socket(socket.AF_UNIX)
qmp.connect(monitor)
answers = qmp.makefile()
answers.readline()


def execute(name, arguments=None, descriptor=None):
    message = json.dumps({"execute": name, "arguments": arguments or {}}).encode()
    rights = []
    if descriptor is not None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
    qmp.sendmsg([message], rights)
    while True:
        answer = json.loads(answers.readline())
        if "error" in answer:
            sys.exit(answer["error"]["desc"])
        if "return" in answer:
            return


execute("qmp_capabilities")
execute("getfd", {"fdname": "stream"}, theirs.fileno())
execute("migrate", {"uri": "fd:stream"})
theirs.close()
os.dup2(ours.fileno(), 3)
# Where it was 3 already, that has changed nothing.
os.set_inheritable(3, True)
os.execv(command[0], command)
