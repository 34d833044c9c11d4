// What the page shows of GET /v1/status.

/** Histograms of one thing, which share their bounds, as one: counts are per bucket, the last is above all bounds. */
export function combined(histograms) {
  const usable = histograms.filter((one) => one.counts.length === one.bounds.length + 1);
  if (!usable.length) return { bounds: [], counts: [], total: 0 };
  const bounds = usable[0].bounds;
  const counts = new Array(bounds.length + 1).fill(0);
  for (const one of usable) {
    if (one.bounds.length !== bounds.length) continue;
    one.counts.forEach((value, index) => { counts[index] += value - (index ? one.counts[index - 1] : 0); });
  }
  return { bounds, counts, total: counts.reduce((sum, value) => sum + value, 0) };
}

/** A quantile in seconds, by linear interpolation within its bucket; null of nothing. */
export function quantile({ bounds, counts, total }, share) {
  if (!total) return null;
  let before = 0;
  for (let index = 0; index < bounds.length; index += 1) {
    if (before + counts[index] >= share * total) {
      const low = index ? bounds[index - 1] : 0;
      return low + ((bounds[index] - low) * (share * total - before)) / counts[index];
    }
    before += counts[index];
  }
  return bounds[bounds.length - 1];
}

/** What callers who waited in silence had to wait. */
export const firstAudio = (status) =>
  combined(status.first_audio.filter((one) => one.labels.queued !== "yes"));

export const CAUSES = [
  ["engine", "engine too slow"],
  ["engine_busy", "engine had no room"],
  ["event_loop", "event loop late"],
];

const ENGINE = "engine_";

/** The measures of an engine: [name without its prefix, value]. Those of the same name and other labels are summed. */
export function engineMeasures(status, engine) {
  const found = new Map();
  for (const [name, samples] of Object.entries(status.metrics)) {
    if (!name.startsWith(ENGINE)) continue;
    const own = samples.filter((one) => one.labels.engine === engine && one.value !== null);
    if (own.length) found.set(name.slice(ENGINE.length), own.reduce((sum, one) => sum + one.value, 0));
  }
  return found;
}

/** Points of the last `seconds`: [how long before the newest, in seconds; values]. */
export class History {
  constructor(seconds) {
    this.seconds = seconds;
    this.read = [];
  }

  add(at, values) {
    this.read = [...this.read.filter((point) => at - point.at <= this.seconds && point.at < at), { at, values }];
  }

  get points() {
    return this.read.map((point) => [this.read.at(-1).at - point.at, point.values]);
  }
}

/** How much counters have grown since they were last read; nothing after a restart of the server. */
export class Growth {
  read(values, since) {
    const before = this.since === since ? this.before : undefined;
    this.before = { ...values };
    this.since = since;
    return Object.fromEntries(
      Object.entries(values).map(([name, value]) => [name, before ? Math.max(0, value - (before[name] ?? 0)) : 0]),
    );
  }
}
