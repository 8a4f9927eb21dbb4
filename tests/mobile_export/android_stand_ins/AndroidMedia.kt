// Stand-ins with the signatures of Android's recording classes that the sample calls. The
// microphone is a file of float32 samples, and goes away when it ends.
package android.media

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

object AudioFormat {
    const val CHANNEL_IN_MONO = 16
    const val ENCODING_PCM_FLOAT = 4
}

class MediaRecorder {
    object AudioSource {
        const val VOICE_RECOGNITION = 6
    }
}

class AudioRecord(source: Int, rate: Int, channels: Int, encoding: Int, bufferSizeInBytes: Int) {
    private val samples =
        ByteBuffer.wrap(File(System.getProperty("microphone")).readBytes())
            .order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
    private var isRecording = false
    val state = if (source == 6 && rate == 16000 && channels == 16 && encoding == 4 &&
        bufferSizeInBytes >= MINIMUM_BYTES) STATE_INITIALIZED else 0

    fun startRecording() { isRecording = true }

    fun read(data: FloatArray, offset: Int, size: Int, mode: Int): Int {
        check(isRecording && mode == READ_BLOCKING)
        if (!samples.hasRemaining()) return ERROR_DEAD_OBJECT
        val count = minOf(size, samples.remaining())
        samples.get(data, offset, count)
        return count
    }

    fun release() { isRecording = false }

    companion object {
        const val STATE_INITIALIZED = 1
        const val READ_BLOCKING = 0
        const val ERROR_DEAD_OBJECT = -6
        private const val MINIMUM_BYTES = 5120

        @JvmStatic
        fun getMinBufferSize(rate: Int, channels: Int, encoding: Int): Int =
            if (rate == 16000 && channels == 16 && encoding == 4) MINIMUM_BYTES else -2
    }
}
