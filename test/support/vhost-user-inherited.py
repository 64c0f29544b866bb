"""Starts a daemon (its command are the arguments) with descriptors of every kind to listen on, and tells what it says, and
whether it serves there.
"""

import subprocess
import sys

from vhost_user import *

listening = socket.socket(socket.AF_UNIX)
listening.bind("inherited.sock")
listening.listen()
pair = socket.socketpair()
node = ["--blockdev", "driver=null-co,node-name=d,size=512"]


def start(descriptor):
    export = f"type=vhost-user-blk,id=e,node-name=d,addr.type=fd,addr.str={descriptor}"
    fds = [descriptor] if isinstance(descriptor, int) and 0 <= descriptor < 1000 else []
    command = ["timeout", "20", *sys.argv[1:], *node, "--export", export]
    return subprocess.Popen(command, pass_fds=fds, stderr=subprocess.PIPE, text=True)


kinds = {
    "connected": pair[0].fileno(), "device": os.open("/dev/null", os.O_RDONLY), "negative": -1,
    "word": "x", "listening": listening.fileno(),
}
daemons = {name: start(descriptor) for name, descriptor in kinds.items()}
print("listening", Master("inherited.sock").number(GET_QUEUE_NUM))
daemons["listening"].terminate()
for name, daemon in daemons.items():
    message = daemon.communicate()[1].replace(str(kinds[name]), "N").split(": ", 1)
    print(name, daemon.returncode, message[1:])
