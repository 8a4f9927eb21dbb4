// The microphone as live captions. Ask for the permission first:
// await AVAudioApplication.requestRecordPermission()
import AVFAudio
import Foundation

/// `onText` gets each text and whether it is final; a later text replaces one that is not. It is
/// called on the captions' queue: go to the main queue before touching views.
final class MicrophoneCaptions {
    private let captions: Captions
    private let onText: (_ text: String, _ isFinal: Bool) -> Void
    private let onFault: (Error) -> Void
    private let engine = AVAudioEngine()
    private let queue = DispatchQueue(label: "captions")
    private var shown = ""

    init(
        _ captions: Captions, onText: @escaping (_ text: String, _ isFinal: Bool) -> Void,
        onFault: @escaping (Error) -> Void
    ) {
        self.captions = captions
        self.onText = onText
        self.onFault = onFault
    }

    /// Begins to listen; a stream starts anew.
    func start() throws {
        #if os(iOS)
        let session = AVAudioSession.sharedInstance()
        try session.setCategory(.record, mode: .measurement)
        try session.setActive(true)
        #endif
        try queue.sync { try captions.reset() }
        let input = engine.inputNode
        let native = input.outputFormat(forBus: 0)
        guard
            let wanted = AVAudioFormat(
                commonFormat: .pcmFormatFloat32, sampleRate: Double(captions.card.sampleRate),
                channels: 1, interleaved: false),
            let converter = AVAudioConverter(from: native, to: wanted)
        else { throw Captions.Fault(message: "no conversion from \(native)") }
        input.installTap(onBus: 0, bufferSize: 4096, format: native) { [weak self] buffer, _ in
            guard let self, let block = Self.convert(buffer, converter, wanted) else { return }
            self.queue.async { self.hear(block) }
        }
        engine.prepare()
        try engine.start()
    }

    /// Ends listening; the last lines have been given when it returns.
    func stop() {
        engine.inputNode.removeTap(onBus: 0)
        engine.stop()
        queue.sync {
            do {
                for line in try captions.finish() { onText(line, true) }
            } catch { onFault(error) }
        }
    }

    private func hear(_ block: [Float]) {
        do {
            for line in try captions.feed(block) { onText(line, true) }
        } catch {
            onFault(error)
        }
        guard captions.partial != shown else { return }
        shown = captions.partial
        if !shown.isEmpty { onText(shown, false) }
    }

    /// The microphone's own rate and channels -> mono at the model's rate.
    private static func convert(
        _ buffer: AVAudioPCMBuffer, _ converter: AVAudioConverter, _ format: AVAudioFormat
    ) -> [Float]? {
        let ratio = format.sampleRate / buffer.format.sampleRate
        let capacity = AVAudioFrameCount(Double(buffer.frameLength) * ratio) + 64
        guard let output = AVAudioPCMBuffer(pcmFormat: format, frameCapacity: capacity) else {
            return nil
        }
        var given = false
        var fault: NSError?
        let status = converter.convert(to: output, error: &fault) { _, status in
            // The converter keeps its own memory between calls: one buffer a call, never an end.
            status.pointee = given ? .noDataNow : .haveData
            defer { given = true }
            return given ? nil : buffer
        }
        guard status != .error, let samples = output.floatChannelData else { return nil }
        return Array(UnsafeBufferPointer(start: samples[0], count: Int(output.frameLength)))
    }
}
