import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import org.apache.avro.Schema;
import org.apache.avro.SchemaCompatibility;
import org.apache.avro.SchemaCompatibility.Incompatibility;

/** Lines `reader TAB writer` in, one line a pair out: Avro's own verdict, or `ERROR` and why. */
public class Judge {
    public static void main(String[] arguments) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        String line;
        while ((line = in.readLine()) != null) {
            String[] sides = line.split("\t");
            out.println(verdict(sides[0], sides[1]));
        }
    }

    static String verdict(String readerText, String writerText) {
        try {
            Schema reader = new Schema.Parser().parse(readerText);
            Schema writer = new Schema.Parser().parse(writerText);
            SchemaCompatibility.SchemaCompatibilityResult result =
                SchemaCompatibility.checkReaderWriterCompatibility(reader, writer).getResult();
            StringBuilder kinds = new StringBuilder(result.getCompatibility().name());
            for (Incompatibility incompatibility : result.getIncompatibilities()) {
                kinds.append(' ').append(incompatibility.getType()).append('@').append(incompatibility.getLocation());
            }
            return kinds.toString();
        } catch (RuntimeException | StackOverflowError error) {
            return "ERROR " + error.getClass().getSimpleName() + ": " + String.valueOf(error.getMessage()).replace('\n', ' ');
        }
    }
}
