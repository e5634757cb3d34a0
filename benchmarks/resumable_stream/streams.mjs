// Streams of npm's resumable-stream, as benchmarks/runs_beside.py asks for them:
//
//   node streams.mjs REDIS_URL STREAMS RATE SECONDS
//
// Each stream is created, its first client leaves, and one follower resumes it over Redis. Prints
// a line of JSON: milliseconds from a delta to its follower, and microseconds of processor.
import { createClient } from "redis"
import { createResumableStreamContext } from "resumable-stream/generic"

const [url, ...numbers] = process.argv.slice(2)
const [streams, rate, seconds] = numbers.map(Number)
const deltas = Math.trunc(rate * seconds)
const publisher = createClient({ url })
const subscriber = createClient({ url })
await Promise.all([publisher.connect(), subscriber.connect()])
const context = createResumableStreamContext({ waitUntil: () => {}, publisher, subscriber })

let go
const begin = new Promise((resolve) => (go = resolve))
const delays = []
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

function produced() {
  return new ReadableStream({
    async start(controller) {
      await begin
      const began = performance.now()
      for (let n = 0; n < deltas; n++) {
        await pause(Math.max(began + (n * 1000) / rate - performance.now(), 0))
        controller.enqueue(`${performance.now().toFixed(3)} `)
      }
      controller.close()
    },
  })
}

async function followed(stream) {
  let count = 0
  for await (const text of stream) {
    const now = performance.now()
    for (const sent of text.split(" ")) {
      if (sent !== "") {
        delays.push(now - Number(sent))
        count++
      }
    }
  }
  return count
}

const followers = []
for (let n = 0; n < streams; n++) {
  const name = `${process.pid}-${n}`
  const first = await context.createNewResumableStream(name, produced)
  await first.cancel()
  followers.push(await context.resumeExistingStream(name))
}
const following = followers.map(followed)
const before = process.cpuUsage()
go()
const counts = await Promise.all(following)
const used = process.cpuUsage(before)
if (counts.some((count) => count !== deltas)) {
  throw new Error(`a delta is missing: ${Math.min(...counts)} of ${deltas}`)
}
delays.sort((a, b) => a - b)
const at = (part) => delays[Math.trunc(delays.length * part)]
console.log(
  JSON.stringify({ p50: at(0.5), p99: at(0.99), cpu: (used.user + used.system) / delays.length }),
)
await Promise.all([publisher.close(), subscriber.close()])
