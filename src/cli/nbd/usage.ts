export function usage(program: string): string {
  return `Usage: ${program} [OPTIONS] FILE
  or:  ${program} -L [OPTIONS]
Serve a disk image over NBD

  -h, --help                show this text
  -V, --version             show the version

Where and for whom:
  -p, --port=PORT           TCP port to listen on (default 10809)
  -b, --bind=ADDRESS        address to listen on (default 0.0.0.0)
  -k, --socket=PATH         listen on a Unix socket instead
  -e, --shared=NUM          serve up to NUM clients at a time, 0 for any number (default 1)
  -t, --persistent          go on when the last client has left
  -v, --verbose             tell of clients and failed requests on standard error
  -x, --export-name=NAME    name of the export (default is the empty name)
  -D, --description=TEXT    what the export is, for people

What is served:
  -f, --format=FORMAT       format of the image; probed when left out
      --image-opts          FILE is a list of options: driver=qcow2,file.filename=...
  -o, --offset=OFFSET       leave out the first OFFSET bytes of the image
  -r, --read-only           refuse writes
  -l, --load-snapshot=SNAPSHOT  serve an internal snapshot, read-only
  -s, --snapshot            keep writes in a temporary file, gone at the end
  -A, --allocation-depth    offer the context qemu:allocation-depth
  -B, --bitmap NAME         offer a dirty bitmap as qemu:dirty-bitmap:NAME

How the image is used:
  -n, --nocache             bypass the page cache, as --cache=none
      --cache=MODE          none, writeback (default), writethrough, directsync or unsafe
      --aio=MODE            threads, native or io_uring; accepted, and of no effect
      --discard=MODE        ignore (default) or unmap
      --detect-zeroes=MODE  off (default), on or unmap

Process:
      --fork                return when the server is running in the background
      --pid-file=PATH       write the number of the process that serves

TLS:
      --object tls-creds-x509,id=ID,endpoint=server|client,dir=DIR[,verify-peer=on|off]
      --object tls-creds-psk,id=ID,endpoint=server|client,dir=DIR[,username=NAME]
      --object tls-creds-anon,id=ID,endpoint=server|client
      --tls-creds=ID        insist on TLS with these credentials
      --tls-authz=ID        serve those only whom this authz-... object allows
      --tls-hostname=NAME   with -L: whom the server's certificate must name

  -L, --list                list what another server exports, at -k or -b and -p
`
}
