// Does this device do what the artefact did where the kit was made? Call it from a test or a button.
package rdsdk.captions

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.abs

/** The largest difference of log_probs, and the text of the vectors' recording. */
class VectorCheck(val worst: Float, val tolerance: Float, val text: String, val expected: String) {
    val passed get() = worst <= tolerance && text == expected

    override fun toString() =
        "log_probs differ by $worst at most, $tolerance allowed; text \"$text\", expected \"$expected\""

    companion object {
        /** Runs every call of the [folder] of vectors from a state of zeros. */
        fun run(captions: Captions, folder: File): VectorCheck {
            val index = File(folder, "index.tsv").readLines().associate {
                it.substringBefore('\t') to it.substringAfter('\t', "")
            }
            val card = captions.card
            val whole = card.chunk + card.overlap
            val size = card.chunkFrames * card.symbols.size
            val calls = index.getValue("calls").toInt()
            val heard = index.getValue("heard_frames").toInt()
            val inputs = floats(File(folder, "inputs.f32"))
            val expected = floats(File(folder, "log_probs.f32"))
            check(calls > 1 && inputs.size == calls * whole && expected.size == calls * size) {
                "these vectors are not of this model"
            }
            captions.clearState()
            val decoder = GreedyDecoder(card)
            val lines = mutableListOf<String>()
            var worst = 0f
            for (call in 0 until calls) {
                val logProbs = captions.step(inputs.copyOfRange(call * whole, (call + 1) * whole))
                for (i in 0 until size) {
                    val difference = abs(logProbs[i] - expected[call * size + i])
                    worst = if (difference.isNaN()) Float.POSITIVE_INFINITY else maxOf(worst, difference)
                }
                // The first call is the silence before the recording.
                for (frame in 0 until card.chunkFrames) {
                    if (call == 0 || (call - 1) * card.chunkFrames + frame >= heard) continue
                    decoder.feed(logProbs, frame * card.symbols.size)?.let { lines += it }
                }
            }
            decoder.finish()?.let { lines += it }
            captions.reset()
            val text = lines.joinToString(" ")
            return VectorCheck(worst, index.getValue("tolerance").toFloat(), text, index.getValue("text"))
        }

        private fun floats(file: File): FloatArray {
            val buffer = ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
            return FloatArray(buffer.remaining()).also { buffer.get(it) }
        }
    }
}
