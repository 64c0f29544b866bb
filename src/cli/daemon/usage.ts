export function usage(program: string): string {
  return `Usage: ${program} [options]
Serves disk images, and backs them up, under the command of QMP clients.

  -h, --help             display this help and exit
  -T, --trace [[enable=]<pattern>][,events=<file>][,file=<file>]
                         accepted, of no effect
  -V, --version          output version information and exit

  --blockdev [driver=]<driver>[,node-name=<N>][,discard=ignore|unmap]
             [,cache.direct=on|off][,cache.no-flush=on|off]
             [,read-only=on|off][,auto-read-only=on|off]
             [,force-share=on|off][,detect-zeroes=on|off|unmap]
             [,driver specific parameters...]
                         open a block node

  --chardev socket,id=<id>,path=<path>[,server=on|off][,wait=on|off]
  --chardev socket,id=<id>,host=<host>,port=<port>[,server=on|off][,wait=on|off]
  --chardev stdio|pty|null,id=<id>
  --chardev file|pipe|serial,id=<id>,path=<path>
  --chardev udp,id=<id>,host=<host>,port=<port>
  --chardev ringbuf,id=<id>[,size=<size>]
                         make a character device; all take [,mux=on|off]
                         [,logfile=<path>][,logappend=on|off]

  --daemonize            run in the background, and return once startup is
                         complete

  --export [type=]nbd,id=<id>,node-name=<node-name>[,name=<export-name>]
           [,writable=on|off][,writethrough=on|off][,allocation-depth=on|off]
                         export a block node over NBD (requires --nbd-server)
  --export [type=]fuse,id=<id>,node-name=<node-name>,mountpoint=<file>
           [,growable=on|off][,writable=on|off][,allow-other=on|off|auto]
                         show a block node as a regular file
  --export [type=]vhost-user-blk,id=<id>,node-name=<node-name>,
           addr.type=unix,addr.path=<path>|addr.type=fd,addr.str=<fd>
           [,writable=on|off][,writethrough=on|off]
           [,logical-block-size=<n>][,num-queues=<n>]
                         export a block node to a virtual machine monitor

  --monitor [chardev=]name[,mode=control][,pretty[=on|off]]
                         serve QMP to the clients of a character device

  --nbd-server addr.type=inet,addr.host=<host>,addr.port=<port>
               [,max-connections=<n>]
  --nbd-server addr.type=unix,addr.path=<path>[,max-connections=<n>]
               [,tls-creds=<id>]
                         start the NBD server

  --object help          list object types that can be added
  --object <type>,help   list properties of objects of a type
  --object secret,id=<id>,data=<text>|file=<path>[,format=raw|base64]
  --object tls-creds-x509,id=<id>,endpoint=server,dir=<folder>[,verify-peer=on|off]
  --object secret_keyring,id=<id>,serial=<n>[,format=raw|base64]
  --object throttle-group,id=<id>[,limits.<limit>=<n>...]
  --object iothread|main-loop,id=<id>
                         make an object

  --pidfile <path>       write process ID to a file after startup

--blockdev, --export, --monitor, --nbd-server and --object take JSON too. The
commands of the monitor are described in docs/qmp-reference.md.
`
}
