// Live captions from a streaming rdsdk artefact with ExecuTorch: samples in, lines of text out.
package rdsdk.captions

import java.io.Closeable
import kotlin.math.max
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** One listener. Not for several threads at a time. */
class Captions(modelPath: String, cardJson: String) : Closeable {
    val card = Card(cardJson)
    private val module = Module.load(modelPath, Module.LOAD_MODE_MMAP)
    private var state = emptyList<FloatArray>()
    private var decoder = GreedyDecoder(card)
    private var pending = FloatArray(0)
    private var samples = 0L
    private var frames = 0L
    val partial get() = decoder.partial

    init { reset() }

    /** One call: chunk + overlap samples in, log_probs (frames x symbols) out; the state is kept. */
    fun step(waveform: FloatArray): FloatArray {
        val inputs = listOf(Tensor.fromBlob(waveform, longArrayOf(1, waveform.size.toLong()))) +
            state.mapIndexed { i, data -> Tensor.fromBlob(data, card.stateShapes[i]) }
        val outputs = module.execute(card.method, *inputs.map { EValue.from(it) }.toTypedArray())
        // Copied: the next call may overwrite the outputs' own memory.
        fun copy(name: String) = outputs[card.outputs.indexOf(name)].toTensor().dataAsFloatArray
        state = card.stateNames.map { copy(it) }
        return copy("log_probs")
    }

    /** A state of zeros: nothing heard, not even silence. */
    fun clearState() {
        state = card.stateShapes.map { FloatArray(it.reduce(Long::times).toInt()) }
    }

    /** Forgets everything. A stream begins after a chunk of silence, as a microphone does. */
    fun reset() {
        clearState()
        step(FloatArray(card.chunk + card.overlap))
        decoder = GreedyDecoder(card)
        pending = FloatArray(0)
        samples = 0
        frames = 0
    }

    /** Hears 16 kHz samples in [-1, 1], as many as come; the lines that became final. */
    fun feed(block: FloatArray): List<String> {
        pending += block
        samples += block.size
        val lines = mutableListOf<String>()
        while (pending.size >= card.chunk + card.overlap) lines += next(card.chunkFrames)
        return lines
    }

    /** There is no more sound: the last lines. A symbol may come up to 10 frames after its sound. */
    fun finish(): List<String> {
        val lines = mutableListOf<String>()
        val all = max(1L, (samples - card.frameOverlap + card.hop - 1) / card.hop) + 10
        while (samples > 0 && frames < all) {
            pending = pending.copyOf(max(pending.size, card.chunk + card.overlap))
            lines += next(minOf(all - frames, card.chunkFrames.toLong()).toInt())
        }
        return lines + listOfNotNull(decoder.finish())
    }

    private fun next(count: Int): List<String> {
        val logProbs = step(pending.copyOf(card.chunk + card.overlap))
        pending = pending.copyOfRange(card.chunk, pending.size) // the overlap stays
        frames += count
        return (0 until count).mapNotNull { decoder.feed(logProbs, it * card.symbols.size) }
    }

    override fun close() = module.destroy()
}
