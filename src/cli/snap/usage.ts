export function usage(program: string): string {
  return `Usage: ${program} [OPTIONS] save|load|inspect FILE
  or:  ${program} [OPTIONS] --qmp SOCKET take|resume FILE
  or:  ${program} [OPTIONS] verify FILE...
  or:  ${program} [OPTIONS] diff FILE FILE
  or:  ${program} [OPTIONS] convert FROM TO
Save the RAM and the devices of a QEMU that is migrated into this command, load them, look into them

  -h, --help                show this text
  -V, --version             show the version

Saving: migrate "exec:${program} -s SIZE save FILE"
  -s, --image-size=SIZE     size of the disk in the new qcow2 image, at least that of all RAM
      --no-description      accept a stream without a description of the devices at its end

      --base=FILE           share the pages that are as in that snapshot
  -c, --compress            compress

Loading: -incoming "exec:${program} load FILE"
  -p, --postcopy=PERCENT    let the guest run after this much of its RAM, 0 to 100; the rest comes
                            as it is needed. The capability postcopy-ram has to be on
      --recover             continue where a loader has died: migrate-recover exec:...
      --speed=RATE          bytes a second of pages that the guest does not wait for

By the monitor:
      --qmp=SOCKET          the monitor of the QEMU to be saved (take) or loaded (resume)
      --mode=MODE           background or live (take)
      --disk=NODE=FILE      the disk NODE gets the overlay FILE at that moment (take)
      --force               begin although there is less space than RAM (take)
      --paused              leave a guest paused that was saved so (resume)
      --socket=PATH         where QEMU and this command meet

Converting:
  -O, --format=FORMAT       image (default), stream, mapped-ram, internal, raw or elf
      --snapshot=NAME       an internal snapshot to read, or to make with -O internal
      --below-4g=SIZE       RAM below 4 GiB, where the machine is no PC

All:
  -S, --page-size=SIZE      bytes of a page of the guest, where it does not say so (default 4096)
  -n, --nocache             bypass the page cache, as --cache=none
      --cache=MODE          none, writeback (default), writethrough, directsync or unsafe
      --aio=MODE            threads, native (with --cache=none) or io_uring; all use threads
      --uri=URI             fd:N, unix:PATH or tcp:HOST:PORT instead of standard input and output;
                            save listens there, load connects
      --json                describe the result as a JSON object (save, load: on standard error)
  -t, --trace               tell on standard error what happens (save, load, take, resume)

SIZE and RATE may have k, M, G, T, P or E behind them.
`
}
