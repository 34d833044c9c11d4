// G.711 mu-law (ITU-T G.711) to samples from -1 to 1.

const TABLE = new Float32Array(256);
for (let code = 0; code < 256; code += 1) {
  const inverted = ~code & 0xff;
  const magnitude = (((inverted & 0x0f) << 3) + 0x84) << ((inverted & 0x70) >> 4);
  TABLE[code] = ((inverted & 0x80 ? -1 : 1) * (magnitude - 0x84)) / 32768;
}

/** Base64 of mu-law bytes to a Float32Array of as many samples. */
export function decode(payload) {
  const binary = atob(payload);
  const samples = new Float32Array(binary.length);
  for (let index = 0; index < binary.length; index += 1) samples[index] = TABLE[binary.charCodeAt(index)];
  return samples;
}

/** Root mean square in decibels below full scale; -90 for silence. */
export function level(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return sum ? Math.max(-90, 10 * Math.log10(sum / samples.length)) : -90;
}
