// Runs the sample on a computer: check KIT | feed KIT BLOCK_SAMPLES | microphone KIT | one-line KIT
package rdsdk.captions

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.system.exitProcess

fun ended() =
    Thread.getAllStackTraces().keys.filter { it.name == "captions" }.forEach(Thread::join)

fun main(arguments: Array<String>) {
    val (task, kit) = arguments
    val captions = Captions(File(kit, "model.pte").path, File(kit, "card.json").readText())
    var isRight = true
    when (task) {
        "check" -> {
            val result = VectorCheck.run(captions, File(kit, "vectors"))
            println(result)
            isRight = result.passed
        }
        "feed" -> {
            val buffer = ByteBuffer.wrap(File(System.getProperty("microphone")).readBytes())
                .order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
            while (buffer.hasRemaining()) {
                val block = FloatArray(minOf(arguments[2].toInt(), buffer.remaining()))
                buffer.get(block)
                captions.feed(block).forEach(::println)
            }
            captions.finish().forEach(::println)
        }
        "microphone" -> {
            val onFault = { fault: Throwable -> println("! ${fault.message}") }
            val listener = MicrophoneCaptions(captions, onFault) { text, isFinal ->
                println((if (isFinal) "" else "~ ") + text)
            }
            // The stand-in's microphone goes away at the end of its file, and comes again.
            repeat(2) {
                listener.start()
                listener.start()
                ended()
            }
            listener.stop()
        }
        "one-line" -> {
            lateinit var listener: MicrophoneCaptions
            listener = MicrophoneCaptions(captions, { println("! ${it.message}") }) { text, isFinal ->
                if (isFinal) {
                    println(text)
                    listener.stop()
                }
            }
            listener.start()
            ended()
            listener.stop()
        }
        else -> error("no task $task")
    }
    captions.close()
    exitProcess(if (isRight) 0 else 1)
}
