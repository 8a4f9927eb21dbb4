// The microphone as live captions. Ask for the permission RECORD_AUDIO before start().
package rdsdk.captions

import android.media.AudioFormat
import android.media.AudioRecord
import android.media.MediaRecorder
import kotlin.concurrent.thread
import kotlin.math.max

/**
 * [onText] gets each text and whether it is final; a later text replaces one that is not. [onFault]
 * is told why listening ended by itself, as when the microphone went away; [start] begins anew.
 * Both are called on the listening thread: post to the main thread before touching views.
 */
class MicrophoneCaptions(
    private val captions: Captions,
    private val onFault: (Throwable) -> Unit,
    private val onText: (text: String, isFinal: Boolean) -> Unit,
) {
    @Volatile private var isOn = false
    @Volatile private var listener: Thread? = null

    /**
     * Begins to listen, unless it does already; a stream starts anew. Throws [IllegalStateException]
     * without a microphone, or in a callback.
     */
    @Synchronized
    fun start() {
        check(listener != Thread.currentThread()) { "start() belongs outside of the callbacks" }
        if (isOn) return
        listener?.join() // the last lines of a stream that is ending
        val rate = captions.card.sampleRate
        val mono = AudioFormat.CHANNEL_IN_MONO
        val float = AudioFormat.ENCODING_PCM_FLOAT
        // Four seconds: a chunk's computing must not lose samples.
        val bytes = max(AudioRecord.getMinBufferSize(rate, mono, float), 4 * rate * 4)
        val record = AudioRecord(MediaRecorder.AudioSource.VOICE_RECOGNITION, rate, mono, float, bytes)
        check(record.state == AudioRecord.STATE_INITIALIZED) { "the microphone cannot be opened" }
        isOn = true
        listener = thread(name = "captions") { listen(record) }
    }

    /** Ends listening; the last lines have been given when it returns, or follow a callback. */
    fun stop() {
        isOn = false
        if (listener != Thread.currentThread()) listener?.join()
    }

    private fun listen(record: AudioRecord) {
        val fault = runCatching { hear(record) }.exceptionOrNull()
        record.release()
        isOn = false
        val late = runCatching { captions.finish().forEach { onText(it, true) } }.exceptionOrNull()
        (fault ?: late)?.let(onFault)
    }

    private fun hear(record: AudioRecord) {
        val block = FloatArray(captions.card.sampleRate / 10)
        var shown = ""
        captions.reset()
        record.startRecording()
        while (isOn) {
            val count = record.read(block, 0, block.size, AudioRecord.READ_BLOCKING)
            check(count >= 0) { "the microphone went away ($count)" }
            captions.feed(block.copyOf(count)).forEach { onText(it, true) }
            if (captions.partial != shown) {
                shown = captions.partial
                if (shown.isNotEmpty()) onText(shown, false)
            }
        }
    }
}
