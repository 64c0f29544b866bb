/** `img info`: what is known about an image, or about all images of its chain. */
import { BlockError } from '../../errors.ts'
import type { NamedIo } from '../command.ts'
import { type ImageRequest, imageGraph, openImage } from '../open-image.ts'
import { Arguments, forceShare, imageOpts, object, output } from './arguments.ts'
import { CommandFailure, usageFailure } from './failure.ts'
import { describeImage, type ImageInfo, imageInfo } from './image-facts.ts'
import type { ImgCommand } from './img-command.ts'
import { prettyJson } from './json.ts'
import { checkImageOpts, objects } from './source-options.ts'

export const info: ImgCommand = async (words, io) => {
  const args = new Arguments(
    'info',
    words,
    'f:U',
    [
      { name: 'format', argument: 'required', as: 'f' },
      output,
      { name: 'backing-chain' },
      object,
      imageOpts,
      forceShare,
    ],
    objects(io),
  )
  if (args.rest.length !== 1) throw usageFailure('Expecting one image file name')
  const { json } = args
  const request: ImageRequest = {
    filename: args.rest[0],
    imageOpts: args.has('image-opts'),
    format: args.value('f'),
    forceShare: args.has('U'),
    backing: false,
    noIo: true,
  }
  const chain = args.has('backing-chain')
  checkImageOpts(request.imageOpts ?? false, request.format)
  const images = await gather(request, chain, io)
  io.stdout.write(
    json ? prettyJson(chain ? images : images[0]) : images.map(describeImage).join('\n'),
  )
  return 0
}

/** Each image is opened by itself, so a broken link of the chain still shows what is above it. */
async function gather(first: ImageRequest, chain: boolean, io: NamedIo): Promise<ImageInfo[]> {
  const images: ImageInfo[] = []
  const seen = new Set<string>()
  for (let request: ImageRequest | undefined = first; request; ) {
    if (seen.has(request.filename)) {
      throw new BlockError(
        'CORRUPT_IMAGE',
        `Backing file '${request.filename}' creates an infinite loop.`,
      )
    }
    seen.add(request.filename)
    const found = await infoOf(request, io)
    images.push(found)
    const { 'backing-filename': recorded, 'full-backing-filename': actual } = found
    if (chain && recorded !== undefined && actual === undefined) {
      throw new CommandFailure(
        `Could not determine absolute backing filename, but backing filename '${recorded}' present`,
      )
    }
    const next = chain ? actual : undefined
    request = next === undefined ? undefined : backingRequest(first, next, found)
  }
  return images
}

function backingRequest(first: ImageRequest, filename: string, overlay: ImageInfo): ImageRequest {
  const format = overlay['backing-filename-format']
  return { filename, format, forceShare: first.forceShare, backing: false, noIo: true }
}

async function infoOf(request: ImageRequest, io: NamedIo): Promise<ImageInfo> {
  await using graph = imageGraph(io)
  return await imageInfo(await openImage(graph, request, io))
}
