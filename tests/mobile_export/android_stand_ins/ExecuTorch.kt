// Stand-ins with the signatures of ExecuTorch's Android classes (executorch-android 1.5.1) that the
// sample calls. The real ones need Android's own native library; these send each call to
// module_server.py, which runs the same artefact in ExecuTorch's Python binding.
package org.pytorch.executorch

import java.io.DataInputStream
import java.io.DataOutputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder

class Tensor private constructor(private val data: FloatArray, private val shape: LongArray) {
    val dataAsFloatArray: FloatArray get() = data.copyOf()

    fun shape(): LongArray = shape.copyOf()

    companion object {
        @JvmStatic
        fun fromBlob(data: FloatArray, shape: LongArray): Tensor {
            require(data.size.toLong() == shape.fold(1L, Long::times)) { "inconsistent capacity" }
            return Tensor(data.copyOf(), shape.copyOf())
        }
    }
}

class EValue private constructor(private val tensor: Tensor) {
    fun toTensor() = tensor

    companion object {
        @JvmStatic fun from(tensor: Tensor) = EValue(tensor)
    }
}

open class Module private constructor(path: String) {
    private val server =
        ProcessBuilder(System.getProperty("python"), System.getProperty("server"), path)
            .redirectError(ProcessBuilder.Redirect.INHERIT).start()
    private val requests = DataOutputStream(server.outputStream.buffered())
    private val answers = DataInputStream(server.inputStream.buffered())

    open fun execute(methodName: String, vararg inputs: EValue): Array<EValue> {
        requests.writeUTF(methodName)
        requests.writeInt(inputs.size)
        inputs.forEach { write(it.toTensor()) }
        requests.flush()
        return Array(answers.readInt()) { EValue.from(read()) }
    }

    open fun destroy() {
        requests.close()
        server.waitFor()
    }

    private fun write(tensor: Tensor) {
        val shape = tensor.shape()
        requests.writeInt(shape.size)
        shape.forEach { requests.writeLong(it) }
        val data = tensor.dataAsFloatArray
        val bytes = ByteBuffer.allocate(4 * data.size).order(ByteOrder.LITTLE_ENDIAN)
        bytes.asFloatBuffer().put(data)
        requests.write(bytes.array())
    }

    private fun read(): Tensor {
        val shape = LongArray(answers.readInt()) { answers.readLong() }
        val bytes = ByteArray(4 * shape.fold(1L, Long::times).toInt())
        answers.readFully(bytes)
        val data = FloatArray(bytes.size / 4)
        ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(data)
        return Tensor.fromBlob(data, shape)
    }

    companion object {
        const val LOAD_MODE_FILE = 0
        const val LOAD_MODE_MMAP = 1

        @JvmStatic
        @JvmOverloads
        fun load(modelPath: String?, loadMode: Int = LOAD_MODE_FILE, numThreads: Int = 0): Module {
            require(loadMode == LOAD_MODE_MMAP && numThreads == 0)
            return Module(modelPath!!)
        }
    }
}
