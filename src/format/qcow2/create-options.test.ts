import { describe, expect, it } from 'vitest'
import { parseCreateOptions } from './create-options.ts'

const size = 1 << 20

describe('options of a new image', () => {
  it('have the defaults of qemu-img', () => {
    expect(parseCreateOptions({ size })).toEqual({
      size,
      version: 3,
      backing: undefined,
      clusterSize: 65536,
      lazyRefcounts: false,
      refcountBits: 16,
      preallocation: 'off',
      compression: 'zlib',
      extendedL2: false,
    })
  })

  it('come as text or typed, under the names of -o or of QMP', () => {
    const text = parseCreateOptions({
      size: '1M',
      compat: '1.1',
      cluster_size: '4k',
      lazy_refcounts: 'on',
      refcount_bits: '8',
      compression_type: 'zstd',
      backing_file: 'base',
      backing_fmt: 'raw',
    })
    const typed = parseCreateOptions({
      size,
      version: 'v3',
      'cluster-size': 4096,
      'lazy-refcounts': true,
      'refcount-bits': 8,
      'compression-type': 'zstd',
      'backing-file': 'base',
      'backing-fmt': 'raw',
    })
    expect(text).toEqual(typed)
  })

  it('round the size up to sectors', () => {
    expect(parseCreateOptions({ size: 1000 }).size).toBe(1024)
  })

  it.each([
    [{ cluster_size: 100 }, 'Cluster size must be a power of two between 512 and 2048k'],
    [{ cluster_size: '4M' }, 'Cluster size must be a power of two between 512 and 2048k'],
    [{ cluster_size: 'x' }, "Parameter 'cluster_size' expects a non-negative number below 2^64"],
    [{ refcount_bits: '3' }, 'Refcount width must be a power of two and may not exceed 64 bits'],
    [{ refcount_bits: 'x' }, "Parameter 'refcount_bits' expects a number"],
    [{ compat: '4' }, "Parameter 'version' does not accept value '4'"],
    [
      { compat: '0.10', refcount_bits: '8' },
      'Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)',
    ],
    [
      { compat: 'v2', lazy_refcounts: 'on' },
      'Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)',
    ],
    [
      { compat: '0.10', compression_type: 'zstd' },
      'Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 or greater)',
    ],
    [{ compression_type: 'lz4' }, "Parameter 'compression-type' does not accept value 'lz4'"],
    [{ preallocation: 'some' }, "Parameter 'preallocation' does not accept value 'some'"],
    [{ lazy_refcounts: 'maybe' }, "Parameter 'lazy_refcounts' expects 'on' or 'off'"],
    [{ backing_fmt: 'raw' }, 'Backing format cannot be used without backing file'],
    [{ nosuch: '1' }, "Invalid parameter 'nosuch'"],
    [
      { backing_file: 'b', preallocation: 'full' },
      'Backing file and preallocation can only be used at the same time if extended_l2 is on',
    ],
    [{ data_file_raw: 'on' }, 'data-file-raw requires data-file'],
    [
      { data_file: 'd', data_file_raw: 'on', backing_file: 'b', compat: 'v2' },
      'Backing file and data-file-raw cannot be used at the same time',
    ],
    [
      { extended_l2: 'on', cluster_size: '8k' },
      'Extended L2 entries are only supported with cluster sizes of at least 16384 bytes',
    ],
    [
      { cluster_size: 512, size: '1T' },
      "The image size is too large for file format 'qcow2' (try using a larger cluster size)",
    ],
    [{ 'encrypt.key-secret': 's' }, "Parameter 'encrypt.format' is missing"],
    [{ 'encrypt.format': 'on' }, "Parameter 'format' does not accept value 'on'"],
    [
      { encryption: true, 'encrypt.format': 'luks' },
      "'encrypt.format' and its alias 'encryption' can't be used at the same time",
    ],
    [
      { 'encrypt.format': 'aes', 'encrypt.cipher-alg': 'aes-256' },
      "Parameter 'encrypt.cipher-alg' is unexpected",
    ],
    [
      { 'encrypt.format': 'luks', 'encrypt.cipher-alg': 'foo' },
      "Parameter 'cipher-alg' does not accept value 'foo'",
    ],
  ])('are refused in the words of qemu-img: %o', (options, message) => {
    expect(() => parseCreateOptions({ size, ...options })).toThrowError(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', message }),
    )
  })
})
