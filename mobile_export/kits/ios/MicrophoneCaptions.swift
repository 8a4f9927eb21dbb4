// The microphone as live captions. Ask for the permission first:
// await AVAudioApplication.requestRecordPermission()
import AVFAudio
import Foundation

/// `onText` gets each text and whether it is final; a later text replaces one that is not. `onFault`
/// is told what went wrong, also when a call or a headset took the microphone away: listening has
/// ended then, and `start` begins anew. Both come on a queue of their own: go to the main queue
/// before touching views. `start` and `stop` belong on the main queue.
final class MicrophoneCaptions: @unchecked Sendable {
    private let captions: Captions
    private let onText: (_ text: String, _ isFinal: Bool) -> Void
    private let onFault: (Error) -> Void
    private let engine = AVAudioEngine()
    private let queue = DispatchQueue(label: "captions")
    private var converter: AVAudioConverter?
    private var observers: [NSObjectProtocol] = []
    private var isOn = false
    private var shown = ""

    init(
        _ captions: Captions, onText: @escaping (_ text: String, _ isFinal: Bool) -> Void,
        onFault: @escaping (Error) -> Void
    ) {
        self.captions = captions
        self.onText = onText
        self.onFault = onFault
    }

    /// Begins to listen, unless it does already; a stream starts anew.
    func start() throws {
        dispatchPrecondition(condition: .onQueue(.main))
        guard !isOn else { return }
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
        self.converter = converter
        input.removeTap(onBus: 0)  // A second tap would end the app.
        input.installTap(onBus: 0, bufferSize: 4096, format: native) { [weak self] buffer, _ in
            guard let self, let block = self.convert(buffer) else { return }
            self.queue.async { self.hear(block) }
        }
        engine.prepare()
        do {
            try engine.start()
        } catch {
            input.removeTap(onBus: 0)
            throw error
        }
        isOn = true
        // The system stops the engine when a call comes in or a headset is plugged in.
        var endings = [(Notification.Name.AVAudioEngineConfigurationChange, engine as AnyObject)]
        #if os(iOS)
        endings.append((AVAudioSession.interruptionNotification, session))
        #endif
        observers = endings.map { name, object in
            NotificationCenter.default.addObserver(forName: name, object: object, queue: .main) {
                [weak self] _ in
                guard let self, self.isOn else { return }
                self.stop()
                self.onFault(Captions.Fault(message: "listening was interrupted"))
            }
        }
    }

    /// Ends listening; the last lines have been given when it returns.
    func stop() {
        dispatchPrecondition(condition: .onQueue(.main))
        guard isOn else { return }
        isOn = false
        observers.forEach { NotificationCenter.default.removeObserver($0) }
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
    private func convert(_ buffer: AVAudioPCMBuffer) -> [Float]? {
        guard let converter else { return nil }
        let ratio = converter.outputFormat.sampleRate / buffer.format.sampleRate
        let capacity = AVAudioFrameCount(Double(buffer.frameLength) * ratio) + 64
        guard
            let output = AVAudioPCMBuffer(
                pcmFormat: converter.outputFormat, frameCapacity: capacity)
        else { return nil }
        let once = Once(buffer)
        var fault: NSError?
        let status = converter.convert(to: output, error: &fault) { _, status in
            // The converter keeps its own memory between calls: one buffer a call, never an end.
            let heard = once.take()
            status.pointee = heard == nil ? .noDataNow : .haveData
            return heard
        }
        guard status != .error, let samples = output.floatChannelData else { return nil }
        return Array(UnsafeBufferPointer(start: samples[0], count: Int(output.frameLength)))
    }
}

/// A buffer that is given once, on the thread that converts it.
private final class Once: @unchecked Sendable {
    private var buffer: AVAudioPCMBuffer?

    init(_ buffer: AVAudioPCMBuffer) { self.buffer = buffer }

    func take() -> AVAudioPCMBuffer? {
        defer { buffer = nil }
        return buffer
    }
}
