// Does this device do what the artefact did where the kit was made? Call it from a test or a button.
import Foundation

/// The largest difference of log_probs, and the text of the vectors' recording.
struct VectorCheck {
    let worst: Float
    let tolerance: Float
    let text: String
    let expected: String

    var passed: Bool { worst <= tolerance && text == expected }

    /// Runs every call of the folder of vectors from a state of zeros.
    static func run(_ captions: Captions, vectors folder: URL) throws -> VectorCheck {
        var index: [String: String] = [:]
        let tsv = try String(contentsOf: folder.appending(path: "index.tsv"), encoding: .utf8)
        for line in tsv.split(separator: "\n") {
            let fields = line.split(separator: "\t", maxSplits: 1, omittingEmptySubsequences: false)
            if fields.count == 2 { index[String(fields[0])] = String(fields[1]) }
        }
        let card = captions.card
        let whole = card.chunk + card.overlap
        let symbols = card.vocabulary.symbols.count
        let size = card.context.chunkFrames * symbols
        let inputs = try floats(folder.appending(path: "inputs.f32"))
        let expected = try floats(folder.appending(path: "log_probs.f32"))
        guard let calls = index["calls"].flatMap(Int.init), calls > 1,
            let heard = index["heard_frames"].flatMap(Int.init),
            let tolerance = index["tolerance"].flatMap(Float.init), let text = index["text"],
            inputs.count == calls * whole, expected.count == calls * size
        else { throw Captions.Fault(message: "these vectors are not of this model") }
        captions.clearState()
        var decoder = GreedyDecoder(card)
        var lines: [String] = []
        var worst: Float = 0
        for call in 0..<calls {
            let logProbs = try captions.step(Array(inputs[call * whole..<(call + 1) * whole]))
            for (got, wanted) in zip(logProbs, expected[call * size..<(call + 1) * size]) {
                let difference = abs(got - wanted)
                worst = difference.isNaN ? .infinity : max(worst, difference)
            }
            // The first call is the silence before the recording.
            for frame in 0..<card.context.chunkFrames
            where call > 0 && (call - 1) * card.context.chunkFrames + frame < heard {
                if let line = decoder.feed(logProbs[frame * symbols..<(frame + 1) * symbols]) {
                    lines.append(line)
                }
            }
        }
        if let line = decoder.finish() { lines.append(line) }
        try captions.reset()
        return VectorCheck(
            worst: worst, tolerance: tolerance, text: lines.joined(separator: " "), expected: text)
    }

    private static func floats(_ url: URL) throws -> [Float] {
        let data = try Data(contentsOf: url)
        return (0..<data.count / 4).map { index in
            var bits: UInt32 = 0
            for byte in (0..<4).reversed() { bits = bits << 8 | UInt32(data[index * 4 + byte]) }
            return Float(bitPattern: bits)
        }
    }
}
