// The card of an rdsdk model, and its log_probs as text: no audio, no model.
package rdsdk.captions

import org.json.JSONArray
import org.json.JSONObject

/** What a model's card.json says about streaming. */
class Card(json: String) {
    private val root = JSONObject(json)
    private val vocabulary = root.getJSONObject("vocabulary")
    private val methods = root.getJSONObject("methods")
    val sampleRate = root.getInt("sample_rate")
    val hop = root.getInt("hop_samples")
    /** What two frames share; what two calls share is longer where the model looks ahead. */
    val frameOverlap = root.getInt("receptive_field_samples") - hop
    val overlap = if (root.has("overlap_samples")) root.getInt("overlap_samples") else frameOverlap
    val chunkFrames = root.getJSONObject("context").getInt("chunk_frames")
    val chunk = chunkFrames * hop
    val symbols = list(vocabulary.getJSONArray("symbols")) { getString(it) }
    val blank = vocabulary.getInt("blank")
    /** The symbol between words; -1 when every symbol is a word. */
    val boundary =
        if (vocabulary.isNull("word_boundary")) -1
        else symbols.indexOf(vocabulary.getString("word_boundary"))
    val method = if (methods.has("step")) "step" else "forward"
    val outputs = list(methods.getJSONObject(method).getJSONArray("outputs")) { getString(it) }
    private val states = list(root.getJSONArray("state")) { getJSONObject(it) }
    val stateNames = states.map { it.getString("name") }
    val stateShapes = states.map { s ->
        list(s.getJSONArray("shape")) { getInt(it).toLong() }.toLongArray()
    }

    private fun <T> list(array: JSONArray, item: JSONArray.(Int) -> T): List<T> =
        (0 until array.length()).map { array.item(it) }
}

/** Greedy CTC: the likeliest symbol of each frame; repeats and blanks collapse, across chunks too. */
class GreedyDecoder(private val card: Card) {
    private val silenceFrames = 8 * card.sampleRate / (10 * card.hop) // 0.8 s end a line
    private val longestFrames = 20 * card.sampleRate / card.hop
    private var previous = card.blank
    private var frame = 0
    private var firstFrame = 0
    private var lastFrame = 0
    private var words = ""
    private var word = ""

    /** What has been heard since the last final line. */
    val partial get() = if (words.isEmpty() || word.isEmpty()) words + word else "$words $word"

    /** Reads the frame that starts at [offset]; the line that became final with it, if any. */
    fun feed(logProbs: FloatArray, offset: Int): String? {
        var symbol = 0
        for (i in card.symbols.indices) if (logProbs[offset + i] > logProbs[offset + symbol]) symbol = i
        val repeated = symbol == previous
        if (if (card.boundary < 0) !repeated else symbol == card.boundary) endWord()
        if (symbol != card.blank && symbol != card.boundary) {
            if (partial.isEmpty()) firstFrame = frame
            if (!repeated) word += card.symbols[symbol]
            lastFrame = frame
        }
        previous = symbol
        frame++
        val longest = if (word.isEmpty()) longestFrames else 2 * longestFrames
        val isOver = frame - lastFrame > silenceFrames || frame - firstFrame >= longest
        return if (partial.isNotEmpty() && isOver) finish() else null
    }

    /** There is no more sound: the last line, if any. */
    fun finish(): String? {
        endWord()
        return words.ifEmpty { null }.also { words = "" }
    }

    private fun endWord() {
        words = partial
        word = ""
    }
}
